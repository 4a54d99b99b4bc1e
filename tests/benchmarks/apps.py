"""What the service is compared with: the least that FastAPI can do, and what it does with a native forest on all cores.

Run as ``python apps.py onnx|native FOLDER PORT``. Without postponed annotations: FastAPI reads them at run time.
"""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np


def _model(names: list[str]) -> Any:
    from pydantic import create_model

    fields: dict[str, Any] = dict.fromkeys(names, (float | None, None))
    return create_model("Row", source_ip=(str | None, None), **fields)


def onnx(folder: Path) -> Any:
    """FastAPI and ONNX Runtime: decode, one run of the served graph, the class and its probability. Nothing else."""
    import onnxruntime as ort
    from fastapi import FastAPI

    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    names, classes = [f["name"] for f in card["features"]], card["classes"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    row_type = _model(names)
    app = FastAPI()

    @app.post("/predict")
    async def predict(row: row_type) -> dict[str, Any]:  # type: ignore[valid-type]
        x = np.array([[getattr(row, name) for name in names]], dtype=np.float32)
        p = session.run(None, {"X": x})[0][0]
        best = int(p.argmax())
        return {"prediction": classes[best], "probability": float(p[best])}

    return app


def native(folder: Path) -> Any:
    """FastAPI and the scikit-learn forest with ``n_jobs=-1``."""
    from fastapi import FastAPI

    names, forest = pickle.loads((folder / "native.pkl").read_bytes())
    row_type = _model(names)
    app = FastAPI()

    @app.post("/predict")
    def predict(row: row_type) -> dict[str, Any]:  # type: ignore[valid-type]
        x = np.array([[getattr(row, name) or 0.0 for name in names]], dtype=np.float32)
        p = forest.predict_proba(x)[0]
        best = int(p.argmax())
        return {"prediction": str(forest.classes_[best]), "probability": float(p[best])}

    return app


if __name__ == "__main__":
    import uvicorn

    kind, where, port = sys.argv[1:]
    uvicorn.run(
        {"onnx": onnx, "native": native}[kind](Path(where)), port=int(port), log_level="error", access_log=False
    )
