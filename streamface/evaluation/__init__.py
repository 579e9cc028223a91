"""What tools/evaluate.py runs: one module per question, each with add_arguments and run."""
