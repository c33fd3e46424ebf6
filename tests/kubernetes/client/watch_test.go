package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"seawall/tests/kubernetes/harness"
)

// events reads a watch event by event.
type events struct {
	responses clientv3.WatchChan
	// pending are the events of the newest response that were not read yet.
	pending []*clientv3.Event
}

// watchFrom watches key from a revision on, and from now on if that is 0.
func watchFrom(ctx context.Context, t *testing.T, client *clientv3.Client, key string, revision int64, opts ...clientv3.OpOption) *events {
	t.Helper()
	opts = append(opts, clientv3.WithRev(revision), clientv3.WithCreatedNotify())
	w := &events{responses: client.Watch(clientv3.WithRequireLeader(ctx), key, opts...)}
	if resp := w.response(t); !resp.Created {
		t.Fatalf("got %v, expected that the watch is created", resp)
	}
	return w
}

// response returns the next response of any kind.
func (w *events) response(t *testing.T) clientv3.WatchResponse {
	t.Helper()
	select {
	case resp, ok := <-w.responses:
		if !ok {
			t.Fatal("the watch ended")
		}
		return resp
	case <-time.After(harness.Patience):
		t.Fatal("no watch response arrived")
		return clientv3.WatchResponse{}
	}
}

func (w *events) next(t *testing.T) *clientv3.Event {
	t.Helper()
	for len(w.pending) == 0 {
		resp := w.response(t)
		if err := resp.Err(); err != nil {
			t.Fatalf("the watch failed: %v", err)
		}
		w.pending = resp.Events
	}
	event := w.pending[0]
	w.pending = w.pending[1:]
	return event
}

func (w *events) expectDelete(t *testing.T) {
	t.Helper()
	if event := w.next(t); event.Type != mvccpb.Event_DELETE {
		t.Errorf("got event %v, expected a DELETE", event)
	}
}

// expectValues reads puts of these values and returns the revision of the last.
func (w *events) expectValues(t *testing.T, values ...string) int64 {
	t.Helper()
	var last int64
	for _, value := range values {
		event := w.next(t)
		if event.Type != mvccpb.Event_PUT || string(event.Kv.Value) != value {
			t.Fatalf("got event %v, expected a PUT of %q", event, value)
		}
		if event.Kv.ModRevision <= last {
			t.Fatalf("got an event of revision %d after one of %d", event.Kv.ModRevision, last)
		}
		last = event.Kv.ModRevision
	}
	return last
}

func TestWatch(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client := env.Client(t)
		a := prefix + "a"
		first := put(ctx, t, client, a, "1")
		second := put(ctx, t, client, a, "2")

		now := watchFrom(ctx, t, client, prefix, 0, clientv3.WithPrefix())
		past := watchFrom(ctx, t, client, prefix, first, clientv3.WithPrefix(), clientv3.WithPrevKV())
		between := watchFrom(ctx, t, client, a, second)
		future := watchFrom(ctx, t, client, a, second+2)
		deletes := watchFrom(ctx, t, client, prefix, first, clientv3.WithPrefix(), clientv3.WithFilterPut())
		fragments := watchFrom(ctx, t, client, prefix, first, clientv3.WithPrefix(), clientv3.WithFragment())

		put(ctx, t, client, a, "3")
		put(ctx, t, client, a, "4")
		if _, err := client.Delete(ctx, a); err != nil {
			t.Fatal(err)
		}

		now.expectValues(t, "3", "4")
		now.expectDelete(t)
		for i, value := range []string{"1", "2", "3", "4"} {
			event := past.next(t)
			if string(event.Kv.Value) != value {
				t.Fatalf("got %v, expected value %s", event, value)
			}
			if created := i == 0; event.IsCreate() != created || (event.PrevKv == nil) != created {
				t.Errorf("got %v, expected a previous value unless it is the first one", event)
			}
			if event.PrevKv != nil && string(event.PrevKv.Value) != fmt.Sprint(i) {
				t.Errorf("the previous value is %s, expected %d", event.PrevKv.Value, i)
			}
		}
		deleted := past.next(t)
		if deleted.Type != mvccpb.Event_DELETE || deleted.PrevKv == nil || string(deleted.PrevKv.Value) != "4" {
			t.Errorf("got %v, expected a DELETE with the previous value 4", deleted)
		}
		if deleted.Kv.ModRevision != second+3 {
			t.Errorf("the deletion is at revision %d, expected %d", deleted.Kv.ModRevision, second+3)
		}
		between.expectValues(t, "2", "3", "4")
		future.expectValues(t, "4")
		deletes.expectDelete(t)
		fragments.expectValues(t, "1", "2", "3", "4")
		fragments.expectDelete(t)
	})
}

// TestWatchKeepsTransactionsTogether writes several keys at once: their events are of one response.
func TestWatchKeepsTransactionsTogether(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client := env.Client(t)
		start := put(ctx, t, client, prefix, "") + 1
		live := watchFrom(ctx, t, client, prefix, start, clientv3.WithPrefix())
		const txns, size = 20, 10
		for i := range txns {
			ops := make([]clientv3.Op, size)
			for j := range ops {
				ops[j] = clientv3.OpPut(fmt.Sprintf("%s%02d", prefix, j), fmt.Sprint(i))
			}
			if _, err := client.Txn(ctx).Then(ops...).Commit(); err != nil {
				t.Fatal(err)
			}
		}
		caughtUp := watchFrom(ctx, t, client, prefix, start, clientv3.WithPrefix())
		for name, w := range map[string]*events{"live": live, "caught up": caughtUp} {
			for seen := 0; seen < txns*size; {
				resp := w.response(t)
				if resp.Err() != nil {
					t.Fatal(resp.Err())
				}
				seen += len(resp.Events)
				of := map[int64]int{}
				for _, event := range resp.Events {
					of[event.Kv.ModRevision]++
				}
				for revision, n := range of {
					if n != size {
						t.Errorf("%s: a response has %d events of revision %d, expected %d", name, n, revision, size)
					}
				}
			}
		}
	})
}

// TestWatchCompacted starts below the compaction and asks for the error that tells so.
func TestWatchCompacted(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client := env.Client(t)
		first := put(ctx, t, client, prefix+"a", "1")
		put(ctx, t, client, prefix+"a", "2")
		last := put(ctx, t, client, prefix+"a", "3")
		compact(ctx, t, env, prefix, last)

		w := watchFrom(ctx, t, client, prefix, first, clientv3.WithPrefix())
		resp := w.response(t)
		if !errors.Is(resp.Err(), rpctypes.ErrCompacted) || resp.CompactRevision != last {
			t.Errorf("got error %v with compact revision %d, expected %v with %d", resp.Err(), resp.CompactRevision, rpctypes.ErrCompacted, last)
		}
		// At the compaction itself the newest event is still there.
		watchFrom(ctx, t, client, prefix, last, clientv3.WithPrefix()).expectValues(t, "3")
	})
}

// TestWatchProgress asks for progress, and expects it at the revision of the watcher's own cluster.
func TestWatchProgress(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		watches := map[string]*events{}
		revisions := map[string]int64{}
		for name, prefix := range prefixes {
			put(ctx, t, client, prefix+"a", "")
			watches[name] = watchFrom(ctx, t, client, prefix, 0, clientv3.WithPrefix())
			revisions[name] = put(ctx, t, env.Owner(prefix).Client(t), "elsewhere", "")
		}
		stop := requestProgress(clientv3.WithRequireLeader(ctx), t, client)
		defer stop()
		for name, w := range watches {
			owner := get(ctx, t, env.Owner(prefixes[name]).Client(t), "elsewhere")
			for reached := int64(0); reached < revisions[name]; {
				resp := w.response(t)
				if !resp.IsProgressNotify() {
					t.Fatalf("%s: got %v, expected progress", name, resp)
				}
				if resp.Header.ClusterId != owner.Header.ClusterId {
					t.Errorf("%s: the progress is of cluster %x, expected %x", name, resp.Header.ClusterId, owner.Header.ClusterId)
				}
				if reached = resp.Header.Revision; reached > owner.Header.Revision {
					t.Fatalf("%s: progress to revision %d, expected at most %d", name, reached, owner.Header.Revision)
				}
			}
		}
	})
}

// requestProgress asks for progress until the returned function is called: single requests may get lost.
func requestProgress(ctx context.Context, t *testing.T, client *clientv3.Client) func() {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if err := client.RequestProgress(ctx); err != nil && ctx.Err() == nil {
					t.Errorf("RequestProgress failed: %v", err)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// TestWatchPeriodicProgress expects etcd's notifications of an idle watch.
func TestWatchPeriodicProgress(t *testing.T) {
	options := harness.Options{Etcd: []string{harness.ProgressInterval(t, 200*time.Millisecond)}}
	harness.RunWith(t, harness.All, options, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		for name, prefix := range prefixes {
			w := watchFrom(ctx, t, client, prefix, 0, clientv3.WithPrefix(), clientv3.WithProgressNotify())
			revision := put(ctx, t, env.Owner(prefix).Client(t), "elsewhere", "")
			for reached := int64(0); reached < revision; {
				resp := w.response(t)
				if !resp.IsProgressNotify() {
					t.Fatalf("%s: got %v, expected progress", name, resp)
				}
				reached = resp.Header.Revision
			}
		}
	})
}

// TestProgressNeverOvertakesEvents writes while progress is asked for: no event may come after progress beyond it.
func TestProgressNeverOvertakesEvents(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client, writer := env.Client(t), env.Owner(prefix).Client(t)
		start := put(ctx, t, client, prefix, "") + 1
		w := watchFrom(ctx, t, client, prefix, start, clientv3.WithPrefix())
		stop := requestProgress(clientv3.WithRequireLeader(ctx), t, client)
		defer stop()
		const writes = 500
		var writing sync.WaitGroup
		writing.Go(func() { putMany(ctx, t, writer, prefix, writes) })
		defer writing.Wait()
		for seen, progress := 0, int64(0); seen < writes; {
			resp := w.response(t)
			if resp.Err() != nil {
				t.Fatal(resp.Err())
			}
			if resp.IsProgressNotify() {
				if resp.Header.Revision < progress {
					t.Fatalf("progress went back from revision %d to %d", progress, resp.Header.Revision)
				}
				progress = resp.Header.Revision
			}
			for _, event := range resp.Events {
				if event.Kv.ModRevision <= progress {
					t.Fatalf("an event of revision %d came after progress to %d", event.Kv.ModRevision, progress)
				}
				seen++
			}
		}
	})
}

// TestManyWatches watches many keys on one stream, cancels half of them, and writes to all.
func TestManyWatches(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client := env.Client(t)
		const n = 100
		watches, cancels := make([]*events, n), make([]context.CancelFunc, n)
		for i := range n {
			var each context.Context
			each, cancels[i] = context.WithCancel(ctx)
			watches[i] = watchFrom(each, t, client, fmt.Sprintf("%s%04d", prefix, i), 0)
		}
		for i := 0; i < n; i += 2 {
			cancels[i]()
		}
		putMany(ctx, t, client, prefix, n)
		for i := 1; i < n; i += 2 {
			watches[i].expectValues(t, fmt.Sprint(i))
			cancels[i]()
		}
	})
}

// TestWatchOfTwoClusters is refused with a reason: it has no revision.
func TestWatchOfTwoClusters(t *testing.T) {
	harness.Run(t, []harness.Target{harness.Routed}, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		for resp := range client.Watch(ctx, "/", clientv3.WithPrefix()) {
			if resp.Canceled {
				if err := resp.Err(); err == nil || !strings.Contains(err.Error(), "cluster") {
					t.Errorf("the watch ended with %v, expected a reason that speaks of the clusters", err)
				}
				return
			}
		}
		t.Error("the watch ended without a reason")
	})
}

// TestWatchCatchUp starts far behind, with more than one response holds.
func TestWatchCatchUp(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client, writer := env.Client(t), env.Owner(prefix).Client(t)
		start := put(ctx, t, client, prefix, "") + 1
		// etcd gives at most 1000 revisions in a response.
		values := make([]string, 2500)
		for i := range values {
			values[i] = fmt.Sprint(i)
			put(ctx, t, writer, prefix+"a", values[i])
		}
		watchFrom(ctx, t, client, prefix, start, clientv3.WithPrefix(), clientv3.WithPrevKV()).expectValues(t, values...)
	})
}
