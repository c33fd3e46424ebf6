package storage

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"

	"seawall/tests/kubernetes/harness"
)

// TestCurrentResourceVersion reads the revision as kube-apiserver does before a consistent list: it is that of the
// objects' own cluster, whatever way the last write took.
func TestCurrentResourceVersion(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		f := newFixture(t, env)
		owner := env.Owner(f.prefix).Client(t)
		for i := range 50 {
			expected := put(t, owner, "elsewhere", fmt.Sprint(i))
			current, err := f.GetCurrentResourceVersion(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if int64(current) != expected {
				t.Fatalf("the current resource version is %d, expected %d", current, expected)
			}
		}
	})
}

// TestReadsLeaveTheRevision reads in all ways and expects that the revision stays what it is.
func TestReadsLeaveTheRevision(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		f := newFixture(t, env)
		created := create(t, f, "a")
		for range 5 {
			if err := f.Get(t.Context(), podKey("a"), storage.GetOptions{}, &example.Pod{}); err != nil {
				t.Fatal(err)
			}
			if rv := listed(t, f).ResourceVersion; rv != created.ResourceVersion {
				t.Fatalf("the list has resource version %s, expected %s", rv, created.ResourceVersion)
			}
		}
	})
}

// listed lists all pods consistently.
func listed(t testing.TB, s storage.Interface) *example.PodList {
	t.Helper()
	return listedWith(t, context.Background(), s)
}

func listedWith(t testing.TB, ctx context.Context, s storage.Interface) *example.PodList {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, harness.Patience)
	defer cancel()
	list := &example.PodList{}
	if err := s.GetList(ctx, "/pods/", storage.ListOptions{Predicate: storage.Everything, Recursive: true}, list); err != nil {
		t.Error(err)
	}
	return list
}

// TestRequestedProgress asks for progress as the watch cache does: watches are told that they are up to date, with the
// revision of their own cluster.
func TestRequestedProgress(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		f := newFixture(t, env)
		start := create(t, f, "a").ResourceVersion
		watchers := []watcher{startWatch(t, f, "/pods/", start), startWatch(t, f, podKey("a"), start), startWatch(t, f, "/pods/other/", start)}
		// A busy default cluster must not leak its revisions into the other one's progress.
		put(t, env.Etcd.Client(t), "elsewhere", "")
		revision := f.increaseRV(t.Context(), t)

		stop := requestProgress(t, f)
		defer stop()
		for _, w := range watchers {
			for reached := int64(0); reached < revision; {
				event := w.next(t)
				if event.Type != watch.Bookmark {
					t.Fatalf("got event %s %v, expected a bookmark", event.Type, event.Object)
				}
				if reached = revisionOf(t, event.Object); reached > revision {
					t.Fatalf("the bookmark has revision %d, expected at most %d", reached, revision)
				}
			}
		}
	})
}

// requestProgress asks for progress every 20 ms until the returned function is called: single requests may get lost.
func requestProgress(t *testing.T, s storage.Interface) func() {
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if err := s.RequestWatchProgress(ctx); err != nil && ctx.Err() == nil {
					t.Errorf("RequestWatchProgress failed: %v", err)
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

// TestConsistentListFromCache writes past the cache and past Seawall, and expects each list from the cache to have
// what was written before it, without a list to etcd.
func TestConsistentListFromCache(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		c := newCached(t, env)
		outside := directStore(t, env)
		for i := range 20 {
			written := create(t, outside, fmt.Sprintf("pod-%02d", i))
			ctx := context.WithValue(t.Context(), storagetesting.RecorderContextKey, written.Name)
			list := listedWith(t, ctx, c)
			if len(list.Items) != i+1 || list.Items[i].Name != written.Name {
				t.Fatalf("the list has %d pods, expected %d with %s as the last", len(list.Items), i+1, written.Name)
			}
			if list.ResourceVersion != written.ResourceVersion {
				t.Errorf("the list has resource version %s, expected %s", list.ResourceVersion, written.ResourceVersion)
			}
			if reached := c.lists().ListRequestForKey(written.Name); len(reached) != 0 {
				t.Errorf("the list went to etcd as %v, expected that the cache answers", reached)
			}
		}
	})
}

// TestConsistentListsAreConcurrent lists from many places at once while another one writes.
func TestConsistentListsAreConcurrent(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		c := newCached(t, env)
		var readers sync.WaitGroup
		for i := range 20 {
			written := create(t, c.store, fmt.Sprintf("pod-%02d", i))
			for range 10 {
				readers.Go(func() {
					if list := listed(t, c); len(list.Items) < i+1 {
						t.Errorf("the list has %d pods, expected at least %d up to %s", len(list.Items), i+1, written.Name)
					}
				})
			}
		}
		readers.Wait()
	})
}

// directStore is a store that writes the same pods without Seawall.
func directStore(t *testing.T, env *harness.Env) storage.Interface {
	t.Helper()
	owner := env.Owner(prefixOn(env.Target))
	return newFixtureWith(t, &harness.Env{Target: harness.Direct, Etcd: owner, Events: owner}, prefixOn(env.Target), codec)
}

// TestCacheFollowsOverARestart restarts what the cache reads from: its watches go on without a gap.
func TestCacheFollowsOverARestart(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		c := newCached(t, env)
		w := startWatch(t, c, "/pods/", create(t, c, "first").ResourceVersion)
		create(t, c, "before")
		w.expect(t, watch.Added, "before")

		env.Stop()
		if env.Target != harness.Direct {
			create(t, directStore(t, env), "meanwhile")
		}
		env.Start(t)
		if env.Target != harness.Direct {
			w.expect(t, watch.Added, "meanwhile")
		}
		create(t, directStore(t, env), "after")
		w.expect(t, watch.Added, "after")
	})
}
