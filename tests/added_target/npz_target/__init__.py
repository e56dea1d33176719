"""A target of edgekit's in a package of its own: a linear model as a NumPy archive, run by NumPy. It imports nothing but the table."""

from edgekit.targets import Runtime, Target

NPZ = Target(
    name="npz",
    runtime=Runtime(
        name="numpy",
        title="NumPy",
        module="numpy",
        packages=("numpy",),
        session="npz_target.session:NpzSession",
        probe="npz_target.session:devices",
        marker="hexagon",
    ),
    precisions=("fp32",),
    maker="npz_target.maker:make",
    makes="weights and bias as a NumPy archive",
)
