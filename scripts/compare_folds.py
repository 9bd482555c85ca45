"""What leaks: the CV of folds that keep copies and groups together, beside the CV of folds that ignore them.

python scripts/compare_folds.py CONFIG [key=value ...] [--force STAGE]

Trains the experiment twice, the second time as NAME-ignoring-groups. Rows that dedup drops are absent from both.
"""

import sys

from pipeline.cli import Arguments, predict_all, run_script


def main(arguments: Arguments) -> None:
    from pipeline.ensembling.scores import describe
    from pipeline.errors import UserError
    from pipeline.files import read_json

    ignoring = {"group": "kfold", "stratified_group": "stratified"}
    configs = []
    for config in arguments.configs:
        if config.teacher is not None:
            raise UserError("teacher: both kinds of folds would need a teacher of their own; compare the folds of the teacher instead")
        if config.folds.strategy not in ignoring:
            raise UserError(f"folds.strategy: {config.folds.strategy} keeps nothing together; write group or stratified_group")
        folds = config.folds.model_copy(update={"strategy": ignoring[config.folds.strategy], "group": ()})
        configs += [config, config.model_copy(update={"experiment": f"{config.experiment}-ignoring-groups", "folds": folds})]
    for done in predict_all(Arguments(configs, arguments.force)):
        rows = done.prepared.folds["group"]
        kept = f"{(rows != '').sum()} rows in {rows[rows != ''].nunique()} groups kept together"
        print(f"{done.config.experiment:40} CV {describe(read_json(done.folder / 'cv.json'))}; {kept}")


if __name__ == "__main__":
    sys.exit(run_script(__doc__ or "", main))
