"""The worker process that the elastic launcher starts: `python -m homegrown.finetuning.worker JOB`."""

import sys
from pathlib import Path

from homegrown.finetuning.job import FinetuneJob
from homegrown.training.stopping import end_process
from homegrown.training.worker import main

if __name__ == "__main__":
    main(Path(sys.argv[1]), FinetuneJob)
    end_process()
