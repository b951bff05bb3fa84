"""Types of the compiled library; the functions are described where drlpp wraps them, and in src/native."""

import numpy as np
from numpy.typing import NDArray

from drlpp.schedules.placed import PlacedStages

SOURCE_HASH: str

def device_loads(placed: PlacedStages) -> NDArray[np.float64]: ...
