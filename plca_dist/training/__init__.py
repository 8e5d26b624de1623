"""One rank's life: engine, loop, checkpoints, evaluation. Nothing here knows of Ray."""

import logging

#: What DeepSpeed warns of and we mean: training on the CPU where there is no GPU, and torch's SGD under ZeRO.
_MEANT = ("Setting accelerator to CPU", "using ZeRO with an untested optimizer")


def _not_meant(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(part in message for part in _MEANT)


# Here, because DeepSpeed says the first of them while it is being imported. Whatever else it says is still heard.
logging.getLogger("DeepSpeed").addFilter(_not_meant)
