"""Keep what is served equal to the champions of the registry: within seconds of a promotion, without a restart.

Two halves, so that no serving process ever imports MLflow:

- the **follower**, one small process on each node (`python -m serve_app.champions.follower`), asks the registry for
  the champions every `POLL_SECONDS`, fetches their servable folders into a local cache, does with each what a replica
  does before it answers with it, and only then writes it into a pointer file, in one step. A version that fails is
  refused: the pointer file keeps the last good one, for restarted replicas too. A model whose alias was removed goes
  out of service. It also carries out promotions, rollbacks and registrations asked for over its socket (`client`).
- the **watcher**, a thread in every serving process, looks at the pointer file every `WATCH_SECONDS`, loads what
  changed, replays its golden examples and only then swaps it in. A servable that fails is refused, the old one
  stays, and the refusal is in `models/status`.

While the registry is unreachable the pointer file stays as it is, over restarts too: predictions go on. Whichever serving
process finds no follower running on its node starts one; a lock file makes it one a node, and it ends with
the process that started it, after which another one takes over.
"""
