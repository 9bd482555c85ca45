"""What training looked like, epoch by epoch: history.csv and TensorBoard."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.files import write_table

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class History:
    """Rows of one fold, one per epoch; kept in the checkpoint, so that a resumed run has every epoch once."""

    def __init__(self, folder: Path, metric: str) -> None:
        self.rows: list[dict[str, float]] = []
        self._folder, self._metric = folder, metric
        self._board: SummaryWriter | None = None

    def add(self, row: dict[str, float]) -> None:
        """Adds the row of an epoch, whose number is in "epoch"."""
        self.rows.append(row)

    def restore(self, rows: list[dict[str, float]]) -> None:
        """Takes up where a checkpoint left off."""
        self.rows = list(rows)

    def write(self) -> None:
        """Writes history.csv anew and the last epoch to TensorBoard."""
        self.write_table()
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=int(self.rows[-1]["epoch"]))
        for name, value in self.rows[-1].items():
            if name != "epoch":
                self._board.add_scalar(name, value, int(self.rows[-1]["epoch"]))
        self._board.flush()

    def write_table(self) -> None:
        """Writes history.csv anew."""
        write_table(self._folder / "history.csv", pd.DataFrame(self.rows).astype({"epoch": int}))

    def last_line(self) -> str:
        """The last epoch in words."""
        row = self.rows[-1]
        looked_at = {"train loss": row["train_loss"], "valid loss": row["valid_loss"], self._metric: row[self._metric]}
        return ", ".join(f"{name} {value:.4f}" for name, value in looked_at.items() if math.isfinite(value))
