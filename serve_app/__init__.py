"""The HTTP boundary: the three champions behind Ray Serve. Never imports TensorFlow, MLflow or pandas."""
