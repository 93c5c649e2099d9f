"""moetap: what the experts of a Mixture-of-Experts model do while it runs.

    import moetap
    with moetap.attach(model, output_dir="run", example_inputs=inputs) as recording:
        recording.model(**inputs)

`import moetap` loads the operators `torch.ops.moetap.*`, so that instrumented TorchScript models and packages of
AOTInductor record in this process as well.
"""

from moetap._library import library_path, load_library

load_library()

from moetap.exported import instrument_exported  # noqa: E402
from moetap.recording import Recording, attach  # noqa: E402

__all__ = ["Recording", "attach", "instrument_exported", "library_path"]
