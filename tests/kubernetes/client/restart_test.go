package client

import (
	"context"
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"seawall/tests/kubernetes/harness"
)

// TestWatchGoesOnOverARestart writes before, while and after what the client is connected to is away. A watch that was
// started before sees every write once and in order.
func TestWatchGoesOnOverARestart(t *testing.T) {
	stops := map[string]func(*testing.T, *harness.Env){
		"killed": func(_ *testing.T, env *harness.Env) { env.Stop() },
		"terminated": func(t *testing.T, env *harness.Env) {
			if env.Seawall == nil {
				env.Stop()
			} else {
				env.Seawall.Terminate(t)
			}
		},
	}
	for name, stop := range stops {
		t.Run(name, func(t *testing.T) {
			harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
				ctx, client := bounded(t), env.Client(t)
				watches := map[string]*events{}
				for place, prefix := range prefixes {
					watches[place] = watchFrom(ctx, t, client, prefix, 0, clientv3.WithPrefix())
				}
				var written []string
				write := func(period string) {
					for i := range 20 {
						written = append(written, fmt.Sprint(period, i))
						for _, prefix := range prefixes {
							put(ctx, t, env.Owner(prefix).Client(t), prefix+"key", written[len(written)-1])
						}
					}
				}
				write("before")
				for _, w := range watches {
					w.expectValues(t, written[:1]...)
				}
				stop(t, env)
				if env.Seawall != nil {
					write("meanwhile")
				}
				env.Start(t)
				write("after")
				for _, w := range watches {
					w.expectValues(t, written[1:]...)
				}
			})
		})
	}
}

// TestWatchGoesOnOverARestartOfEtcd restarts etcd behind a Seawall that stays.
func TestWatchGoesOnOverARestartOfEtcd(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client, owner := env.Client(t), env.Owner(prefix)
		w := watchFrom(ctx, t, client, prefix, 0, clientv3.WithPrefix())
		put(ctx, t, client, prefix+"key", "before")
		w.expectValues(t, "before")
		owner.Stop()
		owner.Start(t)
		// The client does not repeat a write whose outcome it does not know, so this one takes the direct way.
		put(ctx, t, owner.Client(t), prefix+"key", "after")
		w.expectValues(t, "after")
		if resp := get(ctx, t, client, prefix+"key"); string(resp.Kvs[0].Value) != "after" {
			t.Errorf("got %s, expected the value written last", resp.Kvs[0].Value)
		}
	})
}

// TestReadsWaitForARestart starts a read while nothing answers: it succeeds once something does.
func TestReadsWaitForARestart(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client := env.Client(t)
		put(ctx, t, client, prefix+"key", "value")
		env.Stop()
		answer := make(chan error, 1)
		go func() {
			_, err := client.Get(ctx, prefix+"key")
			answer <- err
		}()
		env.Start(t)
		if err := <-answer; err != nil {
			t.Errorf("the read failed: %v", err)
		}
	})
}
