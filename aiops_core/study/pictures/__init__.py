"""Pictures of a study for notebooks, MLflow and the report: each function draws one plain dict or frame."""

from aiops_core.study.pictures.common import Gallery, Picture, save
from aiops_core.study.pictures.data import overview, overviews
from aiops_core.study.pictures.of_study import OF_SEARCH, available, draw, figures, gallery

__all__ = [
    "OF_SEARCH",
    "Gallery",
    "Picture",
    "available",
    "draw",
    "figures",
    "gallery",
    "overview",
    "overviews",
    "save",
]
