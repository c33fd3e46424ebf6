package storage

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage/etcd3"
	testingclock "k8s.io/utils/clock/testing"

	"seawall/tests/kubernetes/harness"
)

// compactRevKey is where kube-apiservers agree which of them compacts.
const compactRevKey = "compact_rev_key"

func put(t *testing.T, client *clientv3.Client, key, value string) int64 {
	t.Helper()
	resp, err := client.Put(t.Context(), key, value)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Revision
}

// isCompacted tells whether key cannot be read at revision any more.
func isCompacted(t *testing.T, client *clientv3.Client, key string, revision int64) bool {
	t.Helper()
	_, err := client.Get(context.Background(), key, clientv3.WithRev(revision))
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		t.Fatal(err)
	}
	return err != nil
}

// TestCompactor runs kube-apiserver's compactor through three of its intervals: each round compacts at the revision
// the round before has seen.
func TestCompactor(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		client := env.Client(t)
		time0 := testingclock.NewFakeClock(time.Now())
		compactor := etcd3.NewCompactor(client, time.Minute, time0, nil)
		t.Cleanup(compactor.Stop)
		round := func() {
			t.Helper()
			time0.Step(time.Minute)
			eventually(t, "the round is over", time0.HasWaiters)
		}
		eventually(t, "the compactor waits", time0.HasWaiters)

		round()
		if revision := compactor.CompactRevision(); revision != 0 {
			t.Errorf("the first round compacted at %d, expected no compaction", revision)
		}
		first := put(t, client, "/registry/pods/default/a", "1")
		round()
		if revision := compactor.CompactRevision(); revision != first-1 {
			t.Errorf("the second round compacted at %d, expected %d", revision, first-1)
		}
		second := put(t, client, "/registry/pods/default/a", "2")
		round()
		// The revision between is that of the compactor's own key.
		if revision := compactor.CompactRevision(); revision != first+1 {
			t.Errorf("the third round compacted at %d, expected %d", revision, first+1)
		}
		if !isCompacted(t, client, "/registry/pods/default/a", first) {
			t.Errorf("revision %d can still be read", first)
		}
		if isCompacted(t, client, "/registry/pods/default/a", second) {
			t.Errorf("revision %d cannot be read", second)
		}
		resp, err := env.Etcd.Client(t).Get(t.Context(), compactRevKey)
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Kvs) != 1 || resp.Kvs[0].Version != 3 {
			t.Errorf("the default cluster has %v for %s, expected version 3", resp.Kvs, compactRevKey)
		}
	})
}

// TestCompactorConflict lets two kube-apiservers compact in the same interval: one does, the other one learns of it.
func TestCompactorConflict(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		winner, loser := env.Client(t), env.Client(t)
		revision := put(t, winner, "/registry/pods/default/a", "1")
		version, _, compacted, err := etcd3.Compact(t.Context(), winner, 0, revision)
		if err != nil || version != 1 || compacted != revision {
			t.Fatalf("the winner got version %d, compacted %d, error %v, expected 1, %d and none", version, compacted, err, revision)
		}
		version, _, compacted, err = etcd3.Compact(t.Context(), loser, 0, revision+1)
		if err != nil || version != 1 || compacted != revision {
			t.Fatalf("the loser got version %d, compacted %d, error %v, expected 1, %d and none", version, compacted, err, revision)
		}
		version, _, compacted, err = etcd3.Compact(t.Context(), loser, version, revision+1)
		if err != nil || version != 2 || compacted != revision+1 {
			t.Fatalf("the loser got version %d, compacted %d, error %v in the next interval, expected 2, %d and none",
				version, compacted, err, revision+1)
		}
	})
}

// TestWatchBelowCompaction starts a watch at a revision that was compacted: kube-apiserver answers its client with 410.
func TestWatchBelowCompaction(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		f := newFixture(t, env)
		first := create(t, f, "a")
		create(t, f, "b")
		create(t, f, "c")
		last := create(t, f, "d")
		f.compact(t.Context(), t, last.ResourceVersion)

		event := startWatch(t, f, "/pods/", first.ResourceVersion).next(t)
		status, ok := event.Object.(*metav1.Status)
		if event.Type != watch.Error || !ok || status.Code != http.StatusGone || status.Reason != metav1.StatusReasonExpired {
			t.Errorf("got event %s %v, expected an error with status 410 Expired", event.Type, event.Object)
		}
	})
}

// TestCompactionReachesTheOtherCluster compacts the default cluster as kube-apiserver does, until what the other
// cluster had before is compacted too. What the other cluster got since then must stay readable.
func TestCompactionReachesTheOtherCluster(t *testing.T) {
	harness.Run(t, []harness.Target{harness.Routed}, func(t *testing.T, env *harness.Env) {
		client, events := env.Client(t), env.Events.Client(t)
		key := harness.EventsPrefix + "/default/a"
		old := put(t, client, key, "old")
		put(t, client, key, "new")

		var version, revision int64
		eventually(t, "the other cluster is compacted", func() bool {
			var err error
			recent := put(t, client, key, "newer")
			if version, revision, _, err = etcd3.Compact(t.Context(), client, version, revision); err != nil {
				t.Fatal(err)
			}
			// The round compacts the default cluster at a revision it had before the last event was written.
			if isCompacted(t, events, key, recent) {
				t.Fatalf("revision %d of the other cluster was compacted too early", recent)
			}
			return isCompacted(t, events, key, old)
		})
		if !isCompacted(t, client, key, old) {
			t.Error("through Seawall the compacted revision can still be read")
		}
		resp, err := events.Get(t.Context(), compactRevKey)
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Kvs) != 0 {
			t.Errorf("the other cluster has %v, expected that nothing writes it there", resp.Kvs)
		}
	})
}
