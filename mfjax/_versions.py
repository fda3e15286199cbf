"""Refuse releases of JAX that compute wrong numbers, or are too old: hosted notebooks ignore version pins."""

import jax

BROKEN = {
    "0.10.2": "silently wrong vmapped matrix-vector products on CPU (jax-ml/jax#39103, #39257)",
    "0.11.0": "wrong values on GPU (jax-ml/jax#40633)",
    "0.11.1": "wrong values on GPU (jax-ml/jax#40633)",
}


# Earlier releases lack what is called; between this one and 0.10.1 nothing is tested.
OLDEST = (0, 8)


def refuse_broken_jax(version: str | None = None) -> None:
    """**Raises** `ImportError` if the installed JAX is one of the excluded releases, or too old.

    >>> refuse_broken_jax("0.10.1")
    """
    version = jax.__version__ if version is None else version
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise ImportError(f'mfjax needs jax 0.10.1 or newer, found {version}: pip install -U "jax>=0.10.1"')
    if version in BROKEN:
        raise ImportError(
            f"mfjax refuses jax {version}: {BROKEN[version]}. Install another release, for example "
            'pip install "jax!=0.10.2,!=0.11.0,!=0.11.1"'
        )
