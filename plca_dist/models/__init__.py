"""Networks and their weight files; torch and safetensors alone. Start at `deeplab.py`."""
