"""Notebook habits in a plain file: display(), Markdown, a figure without savefig, a last expression."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

display(Markdown("## A damped wave"))

time = np.linspace(0, 10, 200)
wave = np.exp(-time / 4) * np.cos(3 * time)

plt.plot(time, wave, label="displacement")
plt.title("A damped wave")
plt.xlabel("Time (s)")
plt.ylabel("Displacement (cm)")
plt.legend()
plt.show()

pd.DataFrame({"time": time, "wave": wave}).describe()
