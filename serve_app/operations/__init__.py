"""What running the service takes beside predictions: metrics, training jobs, remediation."""
