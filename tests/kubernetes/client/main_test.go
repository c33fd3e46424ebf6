// Package client runs etcd's own Go client, and the recipes built on it, on every target.
package client

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/util/wait"

	"seawall/tests/kubernetes/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// prefixes are places for keys: on the routed target they belong to different clusters.
var prefixes = map[string]string{"default": "/test/", "events": harness.EventsPrefix + "/test/"}

// withPrefix runs test on every target for keys at each place. Both places share the servers.
func withPrefix(t *testing.T, test func(ctx context.Context, t *testing.T, env *harness.Env, prefix string)) {
	t.Helper()
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		for name, prefix := range prefixes {
			t.Run(name, func(t *testing.T) { test(bounded(t), t, env, prefix) })
		}
	})
}

// bounded is a context for one test: the client would wait for ever for a server that does not answer.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*harness.Patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition that nothing announces.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(context.Background(), 10*time.Millisecond, harness.Patience, true,
		func(context.Context) (bool, error) { return condition(), nil })
	if err != nil {
		t.Fatalf("waited for: %s: %v", what, err)
	}
}

func put(ctx context.Context, t testing.TB, client *clientv3.Client, key, value string, opts ...clientv3.OpOption) int64 {
	t.Helper()
	resp, err := client.Put(ctx, key, value, opts...)
	if err != nil {
		t.Fatalf("putting %s: %v", key, err)
	}
	return resp.Header.Revision
}

func get(ctx context.Context, t testing.TB, client *clientv3.Client, key string, opts ...clientv3.OpOption) *clientv3.GetResponse {
	t.Helper()
	resp, err := client.Get(ctx, key, opts...)
	if err != nil {
		t.Fatalf("getting %s: %v", key, err)
	}
	return resp
}

// putMany puts n keys with the same value size below prefix.
func putMany(ctx context.Context, t testing.TB, client *clientv3.Client, prefix string, n int) {
	t.Helper()
	for i := range n {
		put(ctx, t, client, fmt.Sprintf("%s%04d", prefix, i), fmt.Sprint(i))
	}
}
