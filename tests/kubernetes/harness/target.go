// Package harness runs one test against etcd itself and against Seawall in front of etcd.
//
// It starts real servers from binaries: etcd from SEAWALL_ETCD_BIN, the PATH or target/tools/etcd, Seawall from
// SEAWALL_BIN or target/release. SEAWALL_TARGETS selects targets by name, separated by commas; without it all run.
package harness

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A Target is a way from a client to its data.
type Target string

const (
	// Direct is etcd itself; what holds here is what Seawall must keep.
	Direct Target = "direct"
	// Proxied is Seawall in front of one etcd cluster.
	Proxied Target = "seawall"
	// Routed is Seawall in front of two clusters, with EventsPrefix on the second.
	Routed Target = "routed"
)

// EventsPrefix is the routed prefix.
const EventsPrefix = "/registry/events"

// Single are the targets with one cluster, All adds the one with two.
var (
	Single = []Target{Direct, Proxied}
	All    = []Target{Direct, Proxied, Routed}
)

// Options are what an environment may be given beyond the defaults.
type Options struct {
	// Etcd are further flags for every etcd server.
	Etcd []string
	// Seawall are further flags for Seawall.
	Seawall []string
	// Serial keeps the test from running beside others, because it changes what the process shares.
	Serial bool
}

// An Env is the servers of one test. Nothing in it is shared with another test.
type Env struct {
	Target Target
	// Etcd is the default cluster.
	Etcd *Etcd
	// Events is the cluster that owns EventsPrefix; the default cluster unless the target is Routed.
	Events *Etcd
	// Seawall is nil if the target is Direct.
	Seawall *Seawall
}

// Run runs test once for each target, each time as a subtest with its own servers. The subtests run in parallel, and
// t itself with its siblings.
func Run(t *testing.T, targets []Target, test func(t *testing.T, env *Env)) {
	t.Helper()
	RunWith(t, targets, Options{}, test)
}

// RunWith is Run with options for the servers.
func RunWith(t *testing.T, targets []Target, options Options, test func(t *testing.T, env *Env)) {
	t.Helper()
	if !options.Serial {
		t.Parallel()
	}
	for _, target := range targets {
		if !selected(target) {
			continue
		}
		t.Run(string(target), func(t *testing.T) {
			if !options.Serial {
				t.Parallel()
			}
			test(t, newEnv(t, target, options))
		})
	}
}

func selected(target Target) bool {
	list := os.Getenv("SEAWALL_TARGETS")
	return list == "" || slices.Contains(strings.Split(list, ","), string(target))
}

func newEnv(t testing.TB, target Target, options Options) *Env {
	t.Helper()
	if target != Direct {
		if _, err := seawallBinary(); err != nil {
			t.Fatal(err)
		}
	}
	env := &Env{Target: target, Etcd: startEtcd(t, options.Etcd...)}
	env.Events = env.Etcd
	if target == Direct {
		return env
	}
	args := append([]string{"--upstream", env.Etcd.URL}, options.Seawall...)
	if target == Routed {
		env.Events = startEtcd(t, options.Etcd...)
		args = append(args, "--route", EventsPrefix+"="+env.Events.URL)
		// Revisions of the two clusters must differ, or a mix-up of them could go unseen. The cluster of the events stays
		// new, because some suites of Kubernetes know the revisions of a new cluster.
		advance(t, env.Etcd, 50)
	}
	env.Seawall = startSeawall(t, args...)
	return env
}

// advance raises the revision of a cluster with writes that leave no key behind.
func advance(t testing.TB, etcd *Etcd, revisions int) {
	t.Helper()
	client := etcd.Client(t)
	for range revisions / 2 {
		if _, err := client.Put(context.Background(), "advance", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Delete(context.Background(), "advance"); err != nil {
			t.Fatal(err)
		}
	}
}

// Endpoint is the address a client of this target is given.
func (e *Env) Endpoint() string {
	if e.Seawall == nil {
		return e.Etcd.URL
	}
	return "http://" + e.Seawall.Address
}

// Owner is the cluster that holds key.
func (e *Env) Owner(key string) *Etcd {
	if key == EventsPrefix || strings.HasPrefix(key, EventsPrefix+"/") {
		return e.Events
	}
	return e.Etcd
}

// Stop ends what the clients of the target are connected to, without a warning. Start brings it back at the same
// address.
func (e *Env) Stop() {
	if e.Seawall == nil {
		e.Etcd.Stop()
	} else {
		e.Seawall.Kill()
	}
}

// Start undoes Stop.
func (e *Env) Start(t testing.TB) {
	t.Helper()
	if e.Seawall == nil {
		e.Etcd.Start(t)
	} else {
		e.Seawall.Start(t)
	}
}

// Client returns a client of the target; change may adapt its configuration.
func (e *Env) Client(t testing.TB, change ...func(*clientv3.Config)) *clientv3.Client {
	t.Helper()
	config := clientv3.Config{Endpoints: []string{e.Endpoint()}}
	for _, f := range change {
		f(&config)
	}
	return newClient(t, config)
}
