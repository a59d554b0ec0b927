"""The demo: the main job on streets, the embedded pair of domains, on two CPU cores.

python main.py run --config configs/streets.py --workdir runs/streets
"""

from configs import default


def get_config():
    return default.get_config()
