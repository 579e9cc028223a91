"""What streamface uses of TensorRT, class by class: both flavours must have it."""

BUILDER = {
    "Builder": "create_network create_builder_config create_optimization_profile "
    "build_serialized_network",
    "BuilderFlag": "TF32",
    "DataType": "UINT8 FLOAT HALF",
    "IBuilderConfig": "clear_flag set_flag set_memory_pool_limit builder_optimization_level "
    "progress_monitor create_timing_cache set_timing_cache get_timing_cache "
    "add_optimization_profile",
    "ILogger": "log Severity",
    "INetworkDefinition": "num_inputs get_input num_outputs get_output num_layers",
    "IOptimizationProfile": "set_shape",
    "IProgressMonitor": "phase_start step_complete phase_finish",
    "ITensor": "name dtype shape",
    "ITimingCache": "serialize",
    "MemoryPoolType": "WORKSPACE",
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "OnnxParser": "parse num_errors get_error",
    "ParserError": "node_name desc",
}
RUNTIME = {
    "ExecutionContextAllocationStrategy": "USER_MANAGED",
    "ICudaEngine": "num_io_tensors get_tensor_name get_tensor_mode get_tensor_dtype "
    "get_tensor_shape get_tensor_profile_shape device_memory_size_v2 create_execution_context",
    "IExecutionContext": "set_device_memory set_input_shape set_tensor_address execute_async_v3",
    "Runtime": "deserialize_cuda_engine",
    "TensorIOMode": "INPUT OUTPUT",
}
RTX = {
    "BuilderFlag": "REQUIRE_USER_ALLOCATION",
    "ComputeCapability": "CURRENT",
    "DynamicShapesKernelSpecializationStrategy": "EAGER",
    "IBuilderConfig": "num_compute_capabilities set_compute_capability",
    "ICudaEngine": "create_runtime_config",
    "IExecutionContext": "is_stream_capturable",
    "IRuntimeConfig": "set_execution_context_allocation_strategy "
    "dynamic_shapes_kernel_specialization_strategy",
}
"""What only TensorRT-RTX has, or is only used of it."""


def missing(trt, *uses):
    """Return what a TensorRT module lacks, as "class.name"."""
    return [
        f"{kind}.{name}"
        for names_of in uses
        for kind, names in names_of.items()
        for name in names.split()
        if not hasattr(getattr(trt, kind, None), name)
    ]
