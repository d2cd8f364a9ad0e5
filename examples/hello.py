"""The smallest run: one line out."""

import platform

print(f"hello from Python {platform.python_version()} on {platform.system() or 'an unnamed system'}")
