package client

import (
	"context"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"seawall/tests/kubernetes/harness"
)

// enableAuth makes a user root, and a user reader who may read below prefix, and switches authentication on.
func enableAuth(ctx context.Context, t *testing.T, client *clientv3.Client, prefix string) {
	t.Helper()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(client.UserAdd(ctx, "root", "root-password"))
	must(client.RoleAdd(ctx, "root"))
	must(client.UserGrantRole(ctx, "root", "root"))
	must(client.UserAdd(ctx, "reader", "reader-password"))
	must(client.RoleAdd(ctx, "reader"))
	read := clientv3.PermissionType(clientv3.PermRead)
	must(client.RoleGrantPermission(ctx, "reader", prefix, clientv3.GetPrefixRangeEnd(prefix), read))
	must(client.UserGrantRole(ctx, "reader", "reader"))
	must(client.AuthEnable(ctx))
}

func as(user, password string) func(*clientv3.Config) {
	return func(c *clientv3.Config) { c.Username, c.Password = user, password }
}

// TestAuth reads and writes as users with different rights: each gets what etcd lets it, and nothing read by one user
// may be given to another one.
func TestAuth(t *testing.T) {
	harness.Run(t, harness.Single, func(t *testing.T, env *harness.Env) {
		ctx, anonymous := bounded(t), env.Client(t)
		allowed, secret := "/registry/pods/", "/registry/secrets/"
		enableAuth(ctx, t, anonymous, allowed)
		root, reader := env.Client(t, as("root", "root-password")), env.Client(t, as("reader", "reader-password"))
		for _, prefix := range []string{allowed, secret} {
			put(ctx, t, root, prefix+"a", prefix)
			if resp := get(ctx, t, root, prefix, clientv3.WithPrefix()); resp.Count != 1 {
				t.Errorf("root reads %s, expected 1 key", brief(resp))
			}
		}
		if resp := get(ctx, t, reader, allowed, clientv3.WithPrefix()); resp.Count != 1 {
			t.Errorf("the reader reads %s, expected 1 key", brief(resp))
		}

		denied := map[string]func() error{
			"list": func() error {
				_, err := reader.Get(ctx, secret, clientv3.WithPrefix())
				return err
			},
			"get": func() error {
				_, err := reader.Get(ctx, secret+"a")
				return err
			},
			"count": func() error {
				_, err := reader.Get(ctx, secret, clientv3.WithPrefix(), clientv3.WithCountOnly())
				return err
			},
			"put": func() error {
				_, err := reader.Put(ctx, allowed+"a", "")
				return err
			},
			"transaction": func() error {
				_, err := reader.Txn(ctx).Then(clientv3.OpGet(secret + "a")).Commit()
				return err
			},
		}
		for name, call := range denied {
			if err := call(); err != rpctypes.ErrPermissionDenied {
				t.Errorf("%s: the reader got %v, expected %v", name, err, rpctypes.ErrPermissionDenied)
			}
		}
		if _, err := anonymous.Get(ctx, allowed, clientv3.WithPrefix()); err != rpctypes.ErrUserEmpty {
			t.Errorf("without a user got %v, expected %v", err, rpctypes.ErrUserEmpty)
		}
		if _, err := env.Client(t).Authenticate(ctx, "reader", "wrong"); err != rpctypes.ErrAuthFailed {
			t.Errorf("a wrong password gave %v, expected %v", err, rpctypes.ErrAuthFailed)
		}

		watchFrom(ctx, t, reader, allowed, 1, clientv3.WithPrefix()).expectValues(t, allowed)
		for resp := range reader.Watch(ctx, secret, clientv3.WithPrefix(), clientv3.WithRev(1)) {
			if len(resp.Events) > 0 {
				t.Errorf("the reader watches %v", resp.Events)
			}
			if resp.Canceled {
				break
			}
		}

		if _, err := root.AuthDisable(ctx); err != nil {
			t.Fatal(err)
		}
		if resp := get(ctx, t, anonymous, secret, clientv3.WithPrefix()); resp.Count != 1 {
			t.Errorf("with authentication off got %s, expected 1 key", brief(resp))
		}
	})
}
