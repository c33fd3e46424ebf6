package storage

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"

	"seawall/tests/kubernetes/harness"
)

// An eventStore is kube-apiserver's storage of events: below the routed prefix, with a lease on every object.
type eventStore struct {
	storage.Interface
	env *harness.Env
	// owner and other are clients of the cluster of the events and of the other one; both of the same one unless
	// the target is routed.
	owner, other *clientv3.Client
}

func newEventStore(t *testing.T, env *harness.Env, leases etcd3.LeaseManagerConfig) *eventStore {
	t.Helper()
	config := backendConfig(env)
	config.LeaseManagerConfig = leases
	store, destroy, err := factory.Create(*config.ForResource(schema.GroupResource{Resource: "events"}), newPod, newPodList, "/events/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(destroy)
	return &eventStore{Interface: store, env: env, owner: env.Events.Client(t), other: env.Etcd.Client(t)}
}

// backendConfig is kube-apiserver's configuration for its storage.
func backendConfig(env *harness.Env) *storagebackend.Config {
	config := storagebackend.NewDefaultConfig("/registry", codec)
	config.Transport.ServerList = []string{env.Endpoint()}
	config.CompactionInterval = 0
	return config
}

func eventKey(name string) string { return "/events/default/" + name }

func (s *eventStore) record(t *testing.T, name string, ttl uint64) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	if err := s.Create(t.Context(), eventKey(name), pod(name), out, ttl); err != nil {
		t.Fatal(err)
	}
	return out
}

// leaseOf returns the lease the owning cluster has on an event.
func (s *eventStore) leaseOf(t *testing.T, name string) clientv3.LeaseID {
	t.Helper()
	return s.leaseAt(t, name, 0)
}

// leaseAt returns the lease at a revision, which also an expired event has.
func (s *eventStore) leaseAt(t *testing.T, name string, revision int64) clientv3.LeaseID {
	t.Helper()
	resp, err := s.owner.Get(t.Context(), "/registry"+eventKey(name), clientv3.WithRev(revision))
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) != 1 {
		t.Fatalf("the owning cluster has %d keys for event %s, expected 1", len(resp.Kvs), name)
	}
	return clientv3.LeaseID(resp.Kvs[0].Lease)
}

// keysOf returns the keys a lease has on a cluster, and whether the cluster knows the lease.
func keysOf(t *testing.T, client *clientv3.Client, lease clientv3.LeaseID) (keys int, known bool) {
	t.Helper()
	resp, err := client.TimeToLive(context.Background(), lease, clientv3.WithAttachedKeys())
	if err != nil {
		t.Fatal(err)
	}
	return len(resp.Keys), resp.TTL >= 0
}

func TestEventsShareLeases(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		s := newEventStore(t, env, etcd3.LeaseManagerConfig{ReuseDurationSeconds: 60, MaxObjectCount: 3})
		for _, name := range []string{"a", "b", "c", "d"} {
			s.record(t, name, 3600)
		}
		shared := s.leaseOf(t, "a")
		if shared == 0 {
			t.Fatal("the event has no lease")
		}
		if b, c := s.leaseOf(t, "b"), s.leaseOf(t, "c"); b != shared || c != shared {
			t.Errorf("events have leases %x, %x and %x, expected the same", shared, b, c)
		}
		if d := s.leaseOf(t, "d"); d == shared || d == 0 {
			t.Errorf("the fourth event has lease %x, expected a new one after 3 events with %x", d, shared)
		}
		if keys, _ := keysOf(t, s.owner, shared); keys != 3 {
			t.Errorf("the lease has %d keys on the owning cluster, expected 3", keys)
		}
		resp, err := s.owner.TimeToLive(t.Context(), shared)
		if err != nil {
			t.Fatal(err)
		}
		// The store grants 60 s more than asked for, to share the lease. An event must never expire early, and a
		// lease that is brought to another cluster keeps what is left of it.
		if resp.TTL < 3600 || resp.TTL > 3660 {
			t.Errorf("the lease has %d s left on the owning cluster, expected 3600 to 3660", resp.TTL)
		}
		if env.Target != harness.Routed {
			return
		}
		if keys, _ := keysOf(t, s.other, shared); keys != 0 {
			t.Errorf("the lease has %d keys on the default cluster, expected none", keys)
		}
		count, err := s.other.Get(t.Context(), harness.EventsPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		if count.Count != 0 {
			t.Errorf("the default cluster has %d events, expected none", count.Count)
		}
	})
}

func TestEventsExpire(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		s := newEventStore(t, env, etcd3.NewDefaultLeaseManagerConfig())
		names := []string{"a", "b", "c"}
		created := map[string]*example.Pod{}
		for _, name := range names {
			created[name] = s.record(t, name, 2)
		}
		lease := s.leaseAt(t, "a", revisionOf(t, created["a"]))

		w := startWatch(t, s, "/events/", created["a"].ResourceVersion)
		w.expect(t, watch.Added, "b")
		w.expect(t, watch.Added, "c")
		last := revisionOf(t, created["c"])
		gone := map[string]bool{}
		for range names {
			event := w.next(t)
			if event.Type != watch.Deleted {
				t.Fatalf("got %s %v, expected a DELETED event", event.Type, event.Object)
			}
			gone[event.Object.(*example.Pod).Name] = true
			if revision := revisionOf(t, event.Object); revision <= last {
				t.Errorf("the event was deleted at revision %d, expected one above %d", revision, last)
			}
		}
		if len(gone) != len(names) {
			t.Errorf("the events %v expired, expected %v", gone, names)
		}
		for _, name := range names {
			err := s.Get(t.Context(), eventKey(name), storage.GetOptions{}, &example.Pod{})
			if !storage.IsNotFound(err) {
				t.Errorf("reading the expired event gave %v, expected not found", err)
			}
		}
		eventually(t, "the lease is gone from both clusters", func() bool {
			_, onOwner := keysOf(t, s.owner, lease)
			_, onOther := keysOf(t, s.other, lease)
			return !onOwner && !onOther
		})
	})
}

// TestEventsOutliveARestart creates an event with a lease that was granted before Seawall was restarted: kube-apiserver
// keeps using it.
func TestEventsOutliveARestart(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		s := newEventStore(t, env, etcd3.NewDefaultLeaseManagerConfig())
		s.record(t, "before", 3600)
		env.Stop()
		env.Start(t)

		ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
		defer cancel()
		// A write on a connection that is just found broken is not repeated by the client.
		var out example.Pod
		eventually(t, "an event can be created again", func() bool {
			return s.Create(ctx, eventKey("after"), pod("after"), &out, 3600) == nil
		})
		if before, after := s.leaseOf(t, "before"), s.leaseOf(t, "after"); before != after {
			t.Errorf("the lease was %x before and %x after, expected the same", before, after)
		}
	})
}

// TestUpdateDetachesTheLease updates an object without a TTL, which makes it permanent.
func TestUpdateDetachesTheLease(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		s := newEventStore(t, env, etcd3.NewDefaultLeaseManagerConfig())
		s.record(t, "a", 3600)
		lease := s.leaseOf(t, "a")
		err := s.GuaranteedUpdate(t.Context(), eventKey("a"), &example.Pod{}, false, nil,
			func(object runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
				object.(*example.Pod).Spec.NodeName = "node"
				return object, new(uint64), nil
			}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if detached := s.leaseOf(t, "a"); detached != 0 {
			t.Errorf("the updated event has lease %x, expected none", detached)
		}
		if keys, _ := keysOf(t, s.owner, lease); keys != 0 {
			t.Errorf("the lease still has %d keys, expected none", keys)
		}
	})
}

// A watcher is a watch of pods.
type watcher struct{ watch.Interface }

// startWatch watches the pods below key, from the revision after resourceVersion.
func startWatch(t *testing.T, s storage.Interface, key, resourceVersion string) watcher {
	t.Helper()
	w, err := s.Watch(t.Context(), key, storage.ListOptions{
		ResourceVersion: resourceVersion,
		Predicate:       storage.Everything,
		Recursive:       true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return watcher{w}
}

// next returns the next event.
func (w watcher) next(t *testing.T) watch.Event {
	t.Helper()
	select {
	case event, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch ended")
		}
		event.Object = unwrap(event.Object)
		return event
	case <-time.After(harness.Patience):
		t.Fatal("no event arrived")
		return watch.Event{}
	}
}

func (w watcher) expect(t *testing.T, kind watch.EventType, name string) *example.Pod {
	t.Helper()
	event := w.next(t)
	object, ok := event.Object.(*example.Pod)
	if event.Type != kind || !ok || object.Name != name {
		t.Fatalf("got event %s %v, expected %s %s", event.Type, event.Object, kind, name)
	}
	return object
}
