"""Networks, their weight files and ONNX; torch and safetensors alone, onnx to write it. Start at `deeplab.py`."""
