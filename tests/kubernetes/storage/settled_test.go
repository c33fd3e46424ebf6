package storage

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// A settled store returns from a create only when the watches of the new object have its event. One suite of
// Kubernetes gives an event 150 ms to arrive, which says more of the machine than of what is tested.
type settled struct {
	storage.Interface
	t *testing.T

	mu      sync.Mutex // guards watches
	watches []*settledWatch
}

// settledSuite wraps a suite that gives events little time.
func settledSuite(run func(context.Context, *testing.T, storage.Interface)) func(context.Context, *testing.T, storage.Interface) {
	return func(ctx context.Context, t *testing.T, s storage.Interface) {
		run(ctx, t, &settled{Interface: s, t: t})
	}
}

func (s *settled) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	inner, err := s.Interface.Watch(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	w := &settledWatch{Interface: inner, key: strings.TrimSuffix(key, "/") + "/", events: make(chan watch.Event, 1000)}
	go w.run()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watches = append(s.watches, w)
	return w, nil
}

func (s *settled) Create(ctx context.Context, key string, object, out runtime.Object, ttl uint64) error {
	if err := s.Interface.Create(ctx, key, object, out, ttl); err != nil {
		return err
	}
	created := revisionOf(s.t, out)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watches {
		if strings.HasPrefix(key, w.key) {
			eventually(s.t, "a watch has the new object", func() bool { return w.ended.Load() || w.seen.Load() >= created })
		}
	}
	return nil
}

// A settledWatch keeps the events of a watch until they are read, and knows the newest of them.
type settledWatch struct {
	watch.Interface
	key    string
	events chan watch.Event
	seen   atomic.Int64
	ended  atomic.Bool
}

func (w *settledWatch) run() {
	defer close(w.events)
	defer w.ended.Store(true)
	for event := range w.Interface.ResultChan() {
		w.events <- event
		if pod, ok := unwrap(event.Object).(*example.Pod); ok && event.Type != watch.Bookmark {
			if rv, err := (storage.APIObjectVersioner{}).ObjectResourceVersion(pod); err == nil {
				w.seen.Store(int64(rv))
			}
		}
	}
}

func (w *settledWatch) ResultChan() <-chan watch.Event { return w.events }

// unwrap takes an object out of what the store and the watch cache put around it.
func unwrap(object runtime.Object) runtime.Object {
	if wrapped, ok := object.(runtime.CacheableObject); ok {
		object = wrapped.GetObject()
	}
	if timed, ok := object.(storage.WatchEventWithRecordTime); ok {
		object = timed.Unwrap()
	}
	return object
}
