package storage

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/cache"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/utils/clock"

	"seawall/tests/kubernetes/harness"
)

// A cached fixture is Kubernetes' watch cache in front of a store.
type cached struct {
	*cacher.CacheDelegator
	store  *fixture
	cacher *cacher.Cacher
}

// newCached returns a cache that is filled from the target, with kube-apiserver's indexes of pods.
func newCached(t testing.TB, env *harness.Env) *cached {
	t.Helper()
	return newCachedWith(t, newFixture(t, env), func(object runtime.Object) (string, error) {
		return storage.NamespaceKeyFunc("/pods/", object)
	})
}

func newCachedWith(t testing.TB, f *fixture, key func(runtime.Object) (string, error)) *cached {
	t.Helper()
	c, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage:             f,
		Versioner:           storage.APIObjectVersioner{},
		GroupResource:       schema.GroupResource{Resource: "pods"},
		EventsHistoryWindow: cacher.DefaultEventFreshDuration,
		ResourcePrefix:      "/pods/",
		KeyFunc:             key,
		GetAttrsFunc:        podAttributes,
		NewFunc:             newPod,
		NewListFunc:         newPodList,
		IndexerFuncs: storage.IndexerFuncs{
			"spec.nodeName": func(object runtime.Object) string { return object.(*example.Pod).Spec.NodeName },
		},
		Indexers: &cache.Indexers{
			"f:spec.nodeName": func(object any) ([]string, error) {
				return []string{object.(*example.Pod).Spec.NodeName}, nil
			},
			"f:metadata.namespace": func(object any) ([]string, error) {
				return []string{object.(*example.Pod).Namespace}, nil
			},
		},
		Codec: codec,
		Clock: clock.RealClock{},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	if err := c.Wait(ctx); err != nil {
		t.Fatalf("the watch cache was not filled: %v", err)
	}
	// The cache reads its freshness from progress notifications only once etcd is known to be able to give them.
	eventually(t, "progress requests are known to be supported", func() bool {
		return etcdfeature.DefaultFeatureSupportChecker.Supports(storage.RequestWatchProgress)
	})
	delegator := cacher.NewCacheDelegator(c, f)
	t.Cleanup(delegator.Stop)
	return &cached{CacheDelegator: delegator, store: f, cacher: c}
}

func podAttributes(object runtime.Object) (labels.Set, fields.Set, error) {
	pod, ok := object.(*example.Pod)
	if !ok {
		return nil, nil, fmt.Errorf("not a pod: %T", object)
	}
	return pod.Labels, fields.Set{
		"metadata.name":      pod.Name,
		"metadata.namespace": pod.Namespace,
		"spec.nodeName":      pod.Spec.NodeName,
		"spec.restartPolicy": string(pod.Spec.RestartPolicy),
		"status.phase":       string(pod.Status.Phase),
	}, nil
}

// compact compacts etcd, and drops the cache's own snapshots of what is compacted without waiting for its timer.
func (c *cached) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	c.store.compact(ctx, t, resourceVersion)
	if err := c.cacher.Compact(resourceVersion); err != nil {
		t.Fatal(err)
	}
}

func (c *cached) lists() *storagetesting.KubernetesRecorder {
	return c.store.client.Kubernetes.(*storagetesting.KubernetesRecorder)
}

// createSynced waits after a create until the cache shows it, as some suites of Kubernetes expect of a store.
type createSynced struct {
	*cached
	t *testing.T
}

func (c createSynced) Create(ctx context.Context, key string, object, out runtime.Object, ttl uint64) error {
	if err := c.CacheDelegator.Create(ctx, key, object, out, ttl); err != nil {
		return err
	}
	created := revisionOf(c.t, out)
	eventually(c.t, "the cache has the new pod", func() bool {
		seen := &example.Pod{}
		err := c.Get(ctx, key, storage.GetOptions{ResourceVersion: "0"}, seen)
		return err == nil && revisionOf(c.t, seen) == created
	})
	return nil
}

// unhurried lets creates take their time, for a suite that makes many of them in 3 s.
type unhurried struct{ storage.Interface }

func (u unhurried) Create(ctx context.Context, key string, object, out runtime.Object, ttl uint64) error {
	return u.Interface.Create(context.WithoutCancel(ctx), key, object, out, ttl)
}

// A cacheSuite is one of Kubernetes' own tests of a store, run on the watch cache.
type cacheSuite struct {
	name string
	run  func(ctx context.Context, t *testing.T, c *cached)
}

func plainCached(name string, run func(context.Context, *testing.T, storage.Interface)) cacheSuite {
	return cacheSuite{name, func(ctx context.Context, t *testing.T, c *cached) { run(ctx, t, c) }}
}

// synced wraps a suite that expects to see at once what it creates.
func synced(name string, run func(context.Context, *testing.T, storage.Interface)) cacheSuite {
	return cacheSuite{name, func(ctx context.Context, t *testing.T, c *cached) { run(ctx, t, createSynced{c, t}) }}
}

func runCacheSuites(t *testing.T, options harness.Options, suites []cacheSuite) {
	for _, s := range suites {
		t.Run(s.name, func(t *testing.T) {
			harness.RunWith(t, harness.All, options, func(t *testing.T, env *harness.Env) {
				s.run(t.Context(), t, newCached(t, env))
			})
		})
	}
}

func TestCacher(t *testing.T) {
	noCheck := func(context.Context, *testing.T, string) {}
	runCacheSuites(t, harness.Options{}, []cacheSuite{
		{"Create", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestCreate(ctx, t, c, noCheck)
		}},
		plainCached("CreateWithTTL", storagetesting.RunTestCreateWithTTL),
		plainCached("UnconditionalDelete", storagetesting.RunTestUnconditionalDelete),
		plainCached("ConditionalDelete", storagetesting.RunTestConditionalDelete),
		plainCached("DeleteWithSuggestionAndConflict", storagetesting.RunTestDeleteWithSuggestionAndConflict),
		plainCached("GuaranteedUpdateWithTTL", storagetesting.RunTestGuaranteedUpdateWithTTL),
		plainCached("GuaranteedUpdateWithConflict", storagetesting.RunTestGuaranteedUpdateWithConflict),
		plainCached("GuaranteedUpdateWithSuggestionAndConflict", storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict),
		plainCached("ListPaging", storagetesting.RunTestListPaging),
		plainCached("GetListRecursivePrefix", storagetesting.RunTestGetListRecursivePrefix),
		plainCached("NamespaceScopedList", storagetesting.RunTestNamespaceScopedList),
		{"ListContinuation", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestListContinuation(ctx, t, c, nil)
		}},
		{"ListContinuationWithFilter", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, c, nil)
		}},
		{"Stats", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestStats(ctx, t, c, codec, c.store.transformer, true)
		}},
		plainCached("KeySchema", storagetesting.RunTestKeySchema),
		plainCached("Watch", storagetesting.RunTestWatch),
		plainCached("DeleteTriggerWatch", storagetesting.RunTestDeleteTriggerWatch),
		plainCached("WatchFromNonZero", storagetesting.RunTestWatchFromNonZero),
		plainCached("DelayedWatchDelivery", storagetesting.RunTestDelayedWatchDelivery),
		plainCached("WatcherTimeout", storagetesting.RunTestWatcherTimeout),
		plainCached("WatchDeleteEventObjectHaveLatestRV", storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV),
		plainCached("WatchInitializationSignal", storagetesting.RunTestWatchInitializationSignal),
		plainCached("NamespaceScopedWatch", storagetesting.RunTestNamespaceScopedWatch),
		{"WatchDispatchBookmarkEvents", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, c, true)
		}},
		{"WatchBookmarksWithCorrectResourceVersion", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(ctx, t, unhurried{c})
		}},
		plainCached("SendInitialEventsBackwardCompatibility", storagetesting.RunSendInitialEventsBackwardCompatibility),
	})
}

// TestCacherGet reads an object that lives for a second only, so nothing may hold the suite up.
func TestCacherGet(t *testing.T) {
	runCacheSuites(t, harness.Options{Serial: true}, []cacheSuite{plainCached("Get", storagetesting.RunTestGet)})
}

// TestCacherClusterScoped runs the watch suite for objects without a namespace.
func TestCacherClusterScoped(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		c := newCachedWith(t, newFixture(t, env), func(object runtime.Object) (string, error) {
			return storage.NoNamespaceKeyFunc("/pods/", object)
		})
		storagetesting.RunTestClusterScopedWatch(t.Context(), t, c)
	})
}

// TestCacherWatchList runs the suites of streamed lists, which switch features themselves.
func TestCacherWatchList(t *testing.T) {
	runCacheSuites(t, harness.Options{Serial: true}, []cacheSuite{
		synced("WatchSemantics", settledSuite(storagetesting.RunWatchSemantics)),
		synced("WatchSemanticInitialEventsExtended", storagetesting.RunWatchSemanticInitialEventsExtended),
		synced("WatchListMatchSingle", storagetesting.RunWatchListMatchSingle),
	})
}

// TestCacherList runs the suites that list through the cache, which also say which lists may still reach etcd.
func TestCacherList(t *testing.T) {
	for _, snapshots := range []bool{true, false} {
		t.Run("Snapshots="+strconv.FormatBool(snapshots), func(t *testing.T) {
			featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.ListFromCacheSnapshot, snapshots)
			t.Run("List", func(t *testing.T) {
				// The suite expects certain lists at etcd, which it names with a prefix the routed target does not have.
				harness.Run(t, harness.Single, func(t *testing.T, env *harness.Env) {
					c := newCached(t, env)
					compact := c.compact
					if !snapshots {
						compact = c.store.compactUnwatched
					}
					storagetesting.RunTestList(t.Context(), t, c, compact, true, c.lists())
				})
			})
			runCacheSuites(t, harness.Options{}, []cacheSuite{
				{"ConsistentList", func(ctx context.Context, t *testing.T, c *cached) {
					storagetesting.RunTestConsistentList(ctx, t, c, c.store.increaseRV, true, true, snapshots)
				}},
				{"GetListNonRecursive", func(ctx context.Context, t *testing.T, c *cached) {
					storagetesting.RunTestGetListNonRecursive(ctx, t, c.store.increaseRV, c)
				}},
			})
		})
	}
}
