"""Files -> rows -> conversations, without torch. Public names: `read`, `Data`, `data_dir`."""

from ftlab.data.read import BadRow  # first: its module shares its name with the function `read`
from ftlab.data.registry import Data, data_dir, read

__all__ = ["BadRow", "Data", "data_dir", "read"]
