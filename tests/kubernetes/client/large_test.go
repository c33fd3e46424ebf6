package client

import (
	"context"
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"seawall/tests/kubernetes/harness"
)

const mebibyte = 1 << 20

// TestLargeRequest puts a value of nearly 2 MiB, the most the client sends by default, to an etcd that takes it.
func TestLargeRequest(t *testing.T) {
	options := harness.Options{Etcd: []string{fmt.Sprint("--max-request-bytes=", 2*mebibyte)}}
	harness.RunWith(t, harness.All, options, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		for name, prefix := range prefixes {
			value := strings.Repeat(name[:1], 2*mebibyte-1024)
			w := watchFrom(ctx, t, client, prefix, 0, clientv3.WithPrefix())
			revision := put(ctx, t, client, prefix+"large", value)
			if got := string(get(ctx, t, client, prefix+"large").Kvs[0].Value); got != value {
				t.Errorf("%s: read %d other bytes, expected the %d written", name, len(got), len(value))
			}
			if event := w.next(t); string(event.Kv.Value) != value || event.Kv.ModRevision != revision {
				t.Errorf("%s: the event has %d bytes at revision %d, expected %d at %d",
					name, len(event.Kv.Value), event.Kv.ModRevision, len(value), revision)
			}
		}
	})
}

// TestLargeList reads more than 64 MiB in one answer, by a range, by a stream and by a watch.
func TestLargeList(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client, owner := env.Client(t), env.Owner(prefix).Client(t)
		const keys = 66
		value := strings.Repeat("x", mebibyte)
		first := int64(0)
		for i := range keys {
			revision := put(ctx, t, owner, fmt.Sprintf("%s%02d", prefix, i), fmt.Sprintf("%02d%s", i, value))
			if first == 0 {
				first = revision
			}
		}
		complete := func(name string, i int, key, got []byte) {
			if expected := fmt.Sprintf("%s%02d", prefix, i); string(key) != expected {
				t.Fatalf("%s: got key %s, expected %s", name, key, expected)
			}
			if len(got) != len(value)+2 || string(got[:2]) != fmt.Sprintf("%02d", i) {
				t.Fatalf("%s: got %d bytes of value %.2s, expected %d of %02d", name, len(got), got, len(value)+2, i)
			}
		}

		list := get(ctx, t, client, prefix, clientv3.WithPrefix())
		if len(list.Kvs) != keys || list.Count != keys || list.More {
			t.Fatalf("got %d keys, count %d, more %t, expected all %d", len(list.Kvs), list.Count, list.More, keys)
		}
		for i, kv := range list.Kvs {
			complete("range", i, kv.Key, kv.Value)
		}
		if harness.EtcdAtLeast(t, "3.7.0") {
			stream, err := client.GetStream(ctx, prefix, clientv3.WithPrefix())
			if err != nil {
				t.Fatal(err)
			}
			i := 0
			for chunk := range stream {
				if err := chunk.Err(); err != nil {
					t.Fatal(err)
				}
				for _, kv := range chunk.Kvs {
					complete("stream", i, kv.Key, kv.Value)
					i++
				}
			}
			if i != keys {
				t.Errorf("the stream gave %d keys, expected %d", i, keys)
			}
		}
		w := watchFrom(ctx, t, client, prefix, first, clientv3.WithPrefix())
		for i := range keys {
			event := w.next(t)
			complete("watch", i, event.Kv.Key, event.Kv.Value)
		}
	})
}
