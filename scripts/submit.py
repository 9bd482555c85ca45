"""Every stage, ending in outputs/<competition>/submission.csv, checked against the sample.

python scripts/submit.py configs/digits.yaml [CONFIG ...] [key=value ...] [--force STAGE]

Several configs are blended. What is done already is not done again.
"""

import sys

from pipeline.cli import run_script, submit_all

if __name__ == "__main__":
    sys.exit(run_script(__doc__ or "", submit_all))
