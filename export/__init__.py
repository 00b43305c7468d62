"""Saccade's training and export stage: from labelled pictures to verified, self-describing ONNX versions."""
