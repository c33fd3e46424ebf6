package storage

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/storage"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"

	"seawall/tests/kubernetes/harness"
)

// TestHealthChecks asks etcd's health as kube-apiserver does for /livez and /readyz: it follows the default cluster.
func TestHealthChecks(t *testing.T) {
	checks := map[string]func(storagebackend.Config, <-chan struct{}) (func() error, error){
		"Health": factory.CreateHealthCheck,
		"Ready":  factory.CreateReadyCheck,
	}
	for name, create := range checks {
		t.Run(name, func(t *testing.T) {
			harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
				config := backendConfig(env)
				// A check asks etcd once in half its timeout, and repeats its last answer between.
				config.HealthcheckTimeout, config.ReadycheckTimeout = time.Second, time.Second
				check, err := create(*config, t.Context().Done())
				if err != nil {
					t.Fatal(err)
				}
				eventually(t, "etcd is healthy", func() bool { return check() == nil })
				env.Etcd.Stop()
				eventually(t, "etcd is unhealthy", func() bool { return check() != nil })
				env.Etcd.Start(t)
				eventually(t, "etcd is healthy again", func() bool { return check() == nil })
			})
		})
	}
}

// TestHealthWithoutEvents takes the cluster of the events away: kube-apiserver must not be restarted for that.
func TestHealthWithoutEvents(t *testing.T) {
	harness.Run(t, []harness.Target{harness.Routed}, func(t *testing.T, env *harness.Env) {
		prober, err := factory.CreateProber(*backendConfig(env))
		if err != nil {
			t.Fatal(err)
		}
		defer prober.Close()
		env.Events.Stop()
		if err := prober.Probe(t.Context()); err != nil {
			t.Errorf("the health check fails without the events: %v", err)
		}
	})
}

func TestMonitorReportsTheDatabaseSize(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		monitor, err := factory.CreateMonitor(*backendConfig(env))
		if err != nil {
			t.Fatal(err)
		}
		defer monitor.Close()
		metrics, err := monitor.Monitor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if metrics.Size <= 0 {
			t.Errorf("the database has %d bytes, expected some", metrics.Size)
		}
	})
}

// TestProgressIsSupported runs kube-apiserver's check that etcd answers progress requests, by its version.
func TestProgressIsSupported(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		client := env.Client(t)
		checker := etcdfeature.NewDefaultFeatureSupportChecker()
		checker.CheckClient(t.Context(), client, storage.RequestWatchProgress)
		eventually(t, "progress requests are supported", func() bool {
			return checker.Supports(storage.RequestWatchProgress)
		})

		through, err := client.Status(t.Context(), env.Endpoint())
		if err != nil {
			t.Fatal(err)
		}
		direct, err := env.Etcd.Client(t).Status(t.Context(), env.Etcd.URL)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := version.ParseSemantic(through.Version); err != nil {
			t.Errorf("the version is %q: %v", through.Version, err)
		}
		if through.Version != direct.Version {
			t.Errorf("the version is %s, expected etcd's, %s", through.Version, direct.Version)
		}
	})
}
