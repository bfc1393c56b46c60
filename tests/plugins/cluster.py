"""A real Kubernetes for every suite: fixtures that start one when a test first asks, and share it.

    def test_something(cluster: Cluster, namespace: str) -> None:
        cluster.apply(deployment, namespace=namespace)
        cluster.rolled_out("deployment/web", namespace=namespace)
        cluster.kubectl("-n", namespace, "get", "pods")

- `apiserver`: an API server and the controllers (garbage collection, service accounts, endpoints), no node.
  For what needs no pods: custom resources, server-side apply, watches, owners. Ready in about 4 seconds.
- `cluster`: the same with a node: pods, Services, names, logs, exec. The same object, so both are started once.
- `namespace`: the name of a namespace of the test's own. It is deleted after the test, and at the end of the
  run all of them must have gone.
- `images`: small images for pods, loaded into the cluster (see `kubernetes_images`).

All have `kubeconfig`, `kubectl`, `ask`, `apply`, `get`, `rolled_out` and `helm` (see `kubernetes_client`).
`PENSTOCK_TEST_KUBECONFIG=FILE` uses the cluster of that file instead; how the own one is built and what it
needs stands in tests/README.md.
"""
