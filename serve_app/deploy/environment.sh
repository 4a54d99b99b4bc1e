# The fast settings of `aiops serve` (serve_app/run.py), for `ray start`: Ray reads them when it starts.
export RAY_SERVE_THROUGHPUT_OPTIMIZED=1
export RAY_SERVE_ENABLE_HA_PROXY=1
export RAY_SERVE_HAPROXY_NBTHREAD=1
export RAY_SERVE_HAPROXY_METRICS_ENABLED=0
export RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S=30
export RAY_SERVE_HAPROXY_TUNE_BUFSIZE=32768
export RAY_SERVE_HAPROXY_LOG_TARGET="127.0.0.1:514 sample 1:10000"
# HAProxy's files lie in a fresh folder that only this user can enter, and its metrics and stats ports are closed to others.
eval "$(python -m serve_app.cluster.haproxy)"
# Three checks must fail before HAProxy is started again.
export RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S=0.5
export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_app.http.request_ids:middlewares
export RAY_USAGE_STATS_ENABLED=0
export RAY_worker_niceness=0
export OMP_NUM_THREADS=1
# A cluster asks its clients for the token in ~/.ray/auth_token; `ray get-auth-token --generate` makes one.
export RAY_AUTH_MODE=token
