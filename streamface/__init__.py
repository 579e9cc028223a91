"""streamface: any video in, emotion-annotated video and tidy data out."""
