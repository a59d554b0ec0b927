"""Bits of whole networks on one device and on several, by code that is emitted as users' is; see same_bits.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEFAULT_EMITTERS
from same_bits import CASES


@pytest.mark.whole
@pytest.mark.parametrize("case", CASES)
def test_one_device_and_several_give_the_same_bits(case):
    script = Path(__file__).with_name("same_bits.py")
    environment = {**os.environ, **DEFAULT_EMITTERS, "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    found = subprocess.run([sys.executable, str(script), case], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
