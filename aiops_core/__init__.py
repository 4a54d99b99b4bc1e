"""AIOps research library: telemetry tables in, honestly measured and calibrated servables out."""

__version__ = "0.1.0"
