package client

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"seawall/tests/kubernetes/harness"
)

// session returns a session with a client and a lease of its own.
func session(ctx context.Context, t *testing.T, env *harness.Env) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(env.Client(t), concurrency.WithTTL(30), concurrency.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestMutex counts under a lock, without a transaction: a lock held twice would lose a step.
func TestMutex(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		const workers, steps = 5, 5
		counter := prefix + "counter"
		put(ctx, t, env.Client(t), counter, "0")
		step := func(s *concurrency.Session) error {
			lock := concurrency.NewMutex(s, prefix+"lock")
			if err := lock.Lock(ctx); err != nil {
				return err
			}
			resp, err := s.Client().Get(ctx, counter)
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(string(resp.Kvs[0].Value))
			if err != nil {
				return err
			}
			if _, err := s.Client().Put(ctx, counter, strconv.Itoa(n+1)); err != nil {
				return err
			}
			return lock.Unlock(ctx)
		}
		var all sync.WaitGroup
		for range workers {
			s := session(ctx, t, env)
			all.Go(func() {
				for range steps {
					if err := step(s); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		resp := get(ctx, t, env.Client(t), counter)
		if got := string(resp.Kvs[0].Value); got != strconv.Itoa(workers*steps) {
			t.Errorf("counted to %s, expected %d", got, workers*steps)
		}
	})
}

// TestMutexIsFreedWithItsSession ends a holder, and the one who waits gets the lock.
func TestMutexIsFreedWithItsSession(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		holder, waiter := session(ctx, t, env), session(ctx, t, env)
		if err := concurrency.NewMutex(holder, prefix+"lock").Lock(ctx); err != nil {
			t.Fatal(err)
		}
		lock := concurrency.NewMutex(waiter, prefix+"lock")
		if err := lock.TryLock(ctx); err != concurrency.ErrLocked {
			t.Fatalf("trying a held lock gave %v, expected %v", err, concurrency.ErrLocked)
		}
		locked := make(chan error, 1)
		go func() { locked <- lock.Lock(ctx) }()
		if err := holder.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-locked; err != nil {
			t.Errorf("the lock was not handed over: %v", err)
		}
	})
}

// TestElection hands leadership over by resignation and by the end of a session, and an observer sees each leader.
func TestElection(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		name := prefix + "election"
		first, second, third := session(ctx, t, env), session(ctx, t, env), session(ctx, t, env)
		observer := concurrency.NewElection(session(ctx, t, env), name).Observe(ctx)
		expectLeader := func(name string) {
			t.Helper()
			for resp := range observer {
				if got := string(resp.Kvs[0].Value); got == name {
					return
				}
			}
			t.Fatalf("the observer ended before it saw %s lead", name)
		}

		leader := concurrency.NewElection(first, name)
		if err := leader.Campaign(ctx, "first"); err != nil {
			t.Fatal(err)
		}
		expectLeader("first")
		won := make(chan error, 2)
		go func() { won <- concurrency.NewElection(second, name).Campaign(ctx, "second") }()
		// The candidate's key shows that it waits; only then its place in the line is known.
		eventually(t, "the second candidate waits", func() bool {
			return get(ctx, t, first.Client(), name, clientv3.WithPrefix(), clientv3.WithCountOnly()).Count == 2
		})
		go func() { won <- concurrency.NewElection(third, name).Campaign(ctx, "third") }()
		eventually(t, "the third candidate waits", func() bool {
			return get(ctx, t, first.Client(), name, clientv3.WithPrefix(), clientv3.WithCountOnly()).Count == 3
		})

		if err := leader.Proclaim(ctx, "first again"); err != nil {
			t.Fatal(err)
		}
		expectLeader("first again")
		if err := leader.Resign(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-won; err != nil {
			t.Fatal(err)
		}
		expectLeader("second")
		if err := second.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-won; err != nil {
			t.Fatal(err)
		}
		expectLeader("third")
	})
}

// TestSTM moves amounts between accounts from many places at once: none may be lost or made.
func TestSTM(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		const accounts, workers, transfers, amount = 4, 4, 10, 100
		account := func(i int) string { return fmt.Sprintf("%saccount%d", prefix, i%accounts) }
		client := env.Client(t)
		for i := range accounts {
			put(ctx, t, client, account(i), strconv.Itoa(amount))
		}
		var all sync.WaitGroup
		for worker := range workers {
			client := env.Client(t)
			all.Go(func() {
				for i := range transfers {
					_, err := concurrency.NewSTM(client, func(s concurrency.STM) error {
						return transfer(s, account(worker+i), account(worker+i+1), 7)
					}, concurrency.WithAbortContext(ctx), concurrency.WithIsolation(concurrency.SerializableSnapshot))
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		sum := 0
		for _, kv := range get(ctx, t, client, prefix+"account", clientv3.WithPrefix()).Kvs {
			n, err := strconv.Atoi(string(kv.Value))
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
		if sum != accounts*amount {
			t.Errorf("the accounts have %d together, expected %d", sum, accounts*amount)
		}
	})
}

func transfer(s concurrency.STM, from, to string, amount int) error {
	a, err := strconv.Atoi(s.Get(from))
	if err != nil {
		return err
	}
	b, err := strconv.Atoi(s.Get(to))
	if err != nil {
		return err
	}
	s.Put(from, strconv.Itoa(a-amount))
	s.Put(to, strconv.Itoa(b+amount))
	return nil
}
