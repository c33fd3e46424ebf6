//! Real etcd servers, certificates and faulty networks for tests, the demo and the bench.
