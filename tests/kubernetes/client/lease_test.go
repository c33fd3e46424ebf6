package client

import (
	"context"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"seawall/tests/kubernetes/harness"
)

func grantRequest(id clientv3.LeaseID, ttl int64) *pb.LeaseGrantRequest {
	return &pb.LeaseGrantRequest{ID: int64(id), TTL: ttl}
}

func grant(ctx context.Context, t *testing.T, client *clientv3.Client, ttl int64) clientv3.LeaseID {
	t.Helper()
	resp, err := client.Grant(ctx, ttl)
	if err != nil {
		t.Fatal(err)
	}
	if resp.ID == 0 || resp.TTL < ttl {
		t.Fatalf("granted lease %x for %d s, expected one for at least %d s", resp.ID, resp.TTL, ttl)
	}
	return resp.ID
}

// leased puts a key with the lease at each place and returns a watch of each.
func leased(ctx context.Context, t *testing.T, client *clientv3.Client, lease clientv3.LeaseID) (keys []string, watches []*events) {
	t.Helper()
	for _, prefix := range prefixes {
		key := prefix + "leased"
		revision := put(ctx, t, client, key, "", clientv3.WithLease(lease))
		keys = append(keys, key)
		watches = append(watches, watchFrom(ctx, t, client, key, revision+1))
	}
	return keys, watches
}

// TestLeaseRevoke deletes the keys of a lease wherever they are.
func TestLeaseRevoke(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		lease := grant(ctx, t, client, 3600)
		keys, watches := leased(ctx, t, client, lease)

		resp, err := client.TimeToLive(ctx, lease, clientv3.WithAttachedKeys())
		if err != nil {
			t.Fatal(err)
		}
		var attached []string
		for _, key := range resp.Keys {
			attached = append(attached, string(key))
		}
		slices.Sort(attached)
		slices.Sort(keys)
		if !slices.Equal(attached, keys) {
			t.Errorf("the lease has keys %q, expected %q", attached, keys)
		}
		if resp.GrantedTTL < 3500 || resp.TTL < 3500 || resp.TTL > 3600 {
			t.Errorf("the lease has %d of %d s left, expected nearly 3600 of 3600", resp.TTL, resp.GrantedTTL)
		}
		leases, err := client.Leases(ctx)
		if err != nil {
			t.Fatal(err)
		}
		known := func(l clientv3.LeaseStatus) bool { return l.ID == lease }
		if !slices.ContainsFunc(leases.Leases, known) {
			t.Errorf("the leases are %v, expected %x among them", leases.Leases, lease)
		}

		if _, err := client.Revoke(ctx, lease); err != nil {
			t.Fatal(err)
		}
		for _, w := range watches {
			w.expectDelete(t)
		}
		for _, etcd := range []*harness.Etcd{env.Etcd, env.Events} {
			resp, err := etcd.Client(t).TimeToLive(ctx, lease)
			if err != nil {
				t.Fatal(err)
			}
			if resp.TTL != -1 {
				t.Errorf("a cluster still has the revoked lease for %d s", resp.TTL)
			}
		}
		if _, err := client.Revoke(ctx, lease); err != rpctypes.ErrLeaseNotFound {
			t.Errorf("revoking the lease again gave %v, expected %v", err, rpctypes.ErrLeaseNotFound)
		}
		// No key can be brought back to life with the lease, at no place.
		for _, key := range keys {
			if _, err := client.Put(ctx, key, "", clientv3.WithLease(lease)); err != rpctypes.ErrLeaseNotFound {
				t.Errorf("putting %s with the revoked lease gave %v, expected %v", key, err, rpctypes.ErrLeaseNotFound)
			}
		}
	})
}

// TestLeaseExpiry lets a lease run out: its keys go by themselves, each on its cluster.
func TestLeaseExpiry(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		_, watches := leased(ctx, t, client, grant(ctx, t, client, 2))
		for _, w := range watches {
			w.expectDelete(t)
		}
	})
}

// TestLeaseKeepAlive keeps a lease for longer than its time, then stops: the keys must live that long, and go then.
func TestLeaseKeepAlive(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		const ttl = 2
		lease := grant(ctx, t, client, ttl)
		keys, watches := leased(ctx, t, client, lease)

		alive, stop := context.WithCancel(ctx)
		defer stop()
		answers, err := client.KeepAlive(alive, lease)
		if err != nil {
			t.Fatal(err)
		}
		// The client asks every third of the time to live, so that more than that time has passed in the end.
		for range 5 {
			answer, ok := <-answers
			if !ok {
				t.Fatal("the lease was lost although it was kept alive")
			}
			if answer.ID != lease || answer.TTL != ttl {
				t.Errorf("the answer is for lease %x and %d s, expected %x and %d", answer.ID, answer.TTL, lease, ttl)
			}
		}
		for _, key := range keys {
			if resp := get(ctx, t, client, key); len(resp.Kvs) != 1 || resp.Kvs[0].Lease != int64(lease) {
				t.Errorf("got %v for %s, expected the key with lease %x", resp.Kvs, key, lease)
			}
		}
		stop()
		for _, w := range watches {
			w.expectDelete(t)
		}
		if _, err := client.KeepAliveOnce(ctx, lease); err != rpctypes.ErrLeaseNotFound {
			t.Errorf("keeping the expired lease gave %v, expected %v", err, rpctypes.ErrLeaseNotFound)
		}
	})
}

// TestLeaseOutlivesARestart keeps a lease alive over a restart of what the client is connected to.
func TestLeaseOutlivesARestart(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		lease := grant(ctx, t, client, 30)
		keys, _ := leased(ctx, t, client, lease)
		answers, err := client.KeepAlive(ctx, lease)
		if err != nil {
			t.Fatal(err)
		}
		<-answers
		env.Stop()
		env.Start(t)
		resp, err := client.KeepAliveOnce(ctx, lease)
		if err != nil || resp.TTL != 30 {
			t.Fatalf("keeping the lease gave %v, %v, expected 30 s", resp, err)
		}
		for _, key := range keys {
			if resp := get(ctx, t, client, key); len(resp.Kvs) != 1 || resp.Kvs[0].Lease != int64(lease) {
				t.Errorf("got %v for %s, expected the key with lease %x", resp.Kvs, key, lease)
			}
		}
		if _, err := client.Revoke(ctx, lease); err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			if resp := get(ctx, t, client, key); len(resp.Kvs) != 0 {
				t.Errorf("got %v for %s, expected that the key went with its lease", resp.Kvs, key)
			}
		}
	})
}

// TestLeaseMoves puts a key with one lease and then with another one, or with none.
func TestLeaseMoves(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client := env.Client(t)
		first, second := grant(ctx, t, client, 3600), grant(ctx, t, client, 3600)
		moved, freed := prefix+"moved", prefix+"freed"
		put(ctx, t, client, moved, "", clientv3.WithLease(first))
		put(ctx, t, client, freed, "", clientv3.WithLease(first))
		put(ctx, t, client, moved, "", clientv3.WithLease(second))
		put(ctx, t, client, freed, "")
		if _, err := client.Revoke(ctx, first); err != nil {
			t.Fatal(err)
		}
		if resp := get(ctx, t, client, prefix, clientv3.WithPrefix()); resp.Count != 2 {
			t.Errorf("%s is left, expected both keys", brief(resp))
		}
		if _, err := client.Revoke(ctx, second); err != nil {
			t.Fatal(err)
		}
		if resp := get(ctx, t, client, moved); resp.Count != 0 {
			t.Errorf("%s is left, expected that it went with its second lease", brief(resp))
		}
	})
}

func TestLeaseUnknown(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		resp, err := env.Client(t).TimeToLive(bounded(t), 12345)
		if err != nil {
			t.Fatal(err)
		}
		if resp.TTL != -1 || resp.GrantedTTL != 0 {
			t.Errorf("the unknown lease has %d of %d s left, expected -1 of 0", resp.TTL, resp.GrantedTTL)
		}
	})
}
