package storage

import (
	"context"
	"errors"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"

	"seawall/tests/kubernetes/harness"
)

// A suite is one of Kubernetes' own storage tests.
type suite struct {
	name string
	run  func(ctx context.Context, t *testing.T, f *fixture)
}

// plain wraps a suite that needs nothing but a store.
func plain(name string, run func(context.Context, *testing.T, storage.Interface)) suite {
	return suite{name, func(ctx context.Context, t *testing.T, f *fixture) { run(ctx, t, f) }}
}

// runSuites runs the suites on every target, each with servers and keys of its own.
func runSuites(t *testing.T, options harness.Options, suites []suite) {
	for _, s := range suites {
		t.Run(s.name, func(t *testing.T) {
			harness.RunWith(t, harness.All, options, func(t *testing.T, env *harness.Env) {
				s.run(t.Context(), t, newFixture(t, env))
			})
		})
	}
}

func TestStore(t *testing.T) {
	runSuites(t, harness.Options{}, []suite{
		{"Create", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestCreate(ctx, t, f, f.checkStored)
		}},
		plain("CreateWithTTL", storagetesting.RunTestCreateWithTTL),
		plain("CreateWithKeyExist", storagetesting.RunTestCreateWithKeyExist),
		plain("UnconditionalDelete", storagetesting.RunTestUnconditionalDelete),
		plain("ConditionalDelete", storagetesting.RunTestConditionalDelete),
		plain("DeleteWithSuggestion", storagetesting.RunTestDeleteWithSuggestion),
		plain("DeleteWithSuggestionAndConflict", storagetesting.RunTestDeleteWithSuggestionAndConflict),
		plain("DeleteWithSuggestionOfDeletedObject", storagetesting.RunTestDeleteWithSuggestionOfDeletedObject),
		plain("DeleteWithConflict", storagetesting.RunTestDeleteWithConflict),
		plain("ValidateDeletionWithSuggestion", storagetesting.RunTestValidateDeletionWithSuggestion),
		plain("ValidateDeletionWithOnlySuggestionValid", storagetesting.RunTestValidateDeletionWithOnlySuggestionValid),
		plain("PreconditionalDeleteWithSuggestion", storagetesting.RunTestPreconditionalDeleteWithSuggestion),
		plain("PreconditionalDeleteWithOnlySuggestionPass", storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass),
		{"GuaranteedUpdate", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdate(ctx, t, f, f.checkStored)
		}},
		plain("GuaranteedUpdateWithTTL", storagetesting.RunTestGuaranteedUpdateWithTTL),
		plain("GuaranteedUpdateWithConflict", storagetesting.RunTestGuaranteedUpdateWithConflict),
		plain("GuaranteedUpdateWithSuggestionAndConflict", storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict),
		{"TransformationFailure", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestTransformationFailure(ctx, t, f)
		}},
		{"Stats", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestStats(ctx, t, f, codec, f.transformer, false)
		}},
		{"CompactRevision", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestCompactRevision(ctx, t, f, f.increaseRV, f.compact)
		}},
		plain("KeySchema", storagetesting.RunTestKeySchema),
	})
}

// TestStoreGet reads an object that lives for a second only, so nothing may hold the suite up.
func TestStoreGet(t *testing.T) {
	runSuites(t, harness.Options{Serial: true}, []suite{plain("Get", storagetesting.RunTestGet)})
}

// TestStoreJSON runs the suite that puts blanks around a stored value, which only JSON forgives.
func TestStoreJSON(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		f := newFixtureWith(t, env, prefixOn(env.Target), jsonCodec)
		storagetesting.RunTestGuaranteedUpdateChecksStoredData(t.Context(), t, f)
	})
}

// TestStoreList runs the suites that list, as Kubernetes 1.37 lists from etcd 3.7 and as it lists from older etcd.
func TestStoreList(t *testing.T) {
	for name, stream := range map[string]bool{"RangeStream": true, "Range": false} {
		t.Run(name, func(t *testing.T) {
			setRangeStream(t, stream)
			runSuites(t, harness.Options{}, listSuites(stream))
			// These suites switch features themselves.
			runSuites(t, harness.Options{Serial: true}, []suite{
				plain("WatchSemantics", settledSuite(storagetesting.RunWatchSemantics)),
				plain("WatchSemanticInitialEventsExtended", storagetesting.RunWatchSemanticInitialEventsExtended),
				plain("WatchListMatchSingle", storagetesting.RunWatchListMatchSingle),
			})
		})
	}
}

func listSuites(stream bool) []suite {
	return []suite{
		{"List", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestList(ctx, t, f, f.compact, false, f.client.Kubernetes.(*storagetesting.KubernetesRecorder))
			if !harness.EtcdAtLeast(t, "3.7.0") {
				return
			}
			if streamed := f.reads().GetStreamReadsAndReset() > 0; streamed != stream {
				t.Errorf("lists used RangeStream: %t, expected %t", streamed, stream)
			}
			if !etcdfeature.DefaultFeatureSupportChecker.Supports(storage.RangeStream) {
				t.Error("RangeStream was answered with Unimplemented")
			}
		}},
		{"ConsistentList", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestConsistentList(ctx, t, f, f.increaseRV, false, true, false)
		}},
		plain("ListPaging", storagetesting.RunTestListPaging),
		plain("NamespaceScopedList", storagetesting.RunTestNamespaceScopedList),
		plain("GetListRecursivePrefix", storagetesting.RunTestGetListRecursivePrefix),
		{"GetListNonRecursive", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGetListNonRecursive(ctx, t, f.increaseRV, f)
		}},
		{"ListContinuation", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListContinuation(ctx, t, f, f.checkReads)
		}},
		{"ListContinuationWithFilter", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, f, f.checkReads)
		}},
		{"ListPaginationRareObject", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListPaginationRareObject(ctx, t, f, f.checkReads)
		}},
		{"ListInconsistentContinuation", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListInconsistentContinuation(ctx, t, f, f.compact)
		}},
		{"ListResourceVersionMatch", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListResourceVersionMatch(ctx, t, f)
		}},
	}
}

// setRangeStream switches streamed lists for one test, and forgets what earlier tests learnt of etcd's support.
func setRangeStream(t *testing.T, on bool) {
	t.Helper()
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.EtcdRangeStream, on)
	earlier := etcdfeature.DefaultFeatureSupportChecker
	etcdfeature.DefaultFeatureSupportChecker = etcdfeature.NewDefaultFeatureSupportChecker()
	t.Cleanup(func() { etcdfeature.DefaultFeatureSupportChecker = earlier })
}

// checkReads checks that a list met every object once: a wrong count or a wrong more in an answer would show here.
func (f *fixture) checkReads(t *testing.T, _, objects uint64) {
	t.Helper()
	if read := f.transformer.prefix.GetReadsAndReset(); read != objects {
		t.Errorf("the list read %d objects, expected %d", read, objects)
	}
}

// TestStoreCorruptObjects runs the suites about objects that cannot be read. Those name keys without a prefix.
func TestStoreCorruptObjects(t *testing.T) {
	run := func(name string, test func(t *testing.T, env *harness.Env)) {
		t.Run(name, func(t *testing.T) {
			harness.Run(t, harness.Single, test)
		})
	}
	deletion := func(test func(ctx context.Context, t testing.TB, store storage.Interface, fail func(bool))) func(*testing.T, *harness.Env) {
		return func(t *testing.T, env *harness.Env) {
			breaking := &breakingCodec{Codec: codec}
			f := newFixtureWith(t, env, "", breaking)
			test(t.Context(), t, f, breaking.set)
		}
	}
	run("DeleteWithConflict", deletion(storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError))
	run("Delete", deletion(storagetesting.RunTestDeleteExpectedTransformOrDecodeError))
	run("DeleteWithSuggestion", func(t *testing.T, env *harness.Env) {
		f := newFixtureWith(t, env, "", codec)
		storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(t.Context(), t, f)
	})
	run("List", func(t *testing.T, env *harness.Env) {
		f := newFixtureWith(t, env, "", codec)
		f.Interface = etcd3.NewStoreWithUnsafeCorruptObjectDeletion(f.Interface, schema.GroupResource{Resource: "pods"})
		storagetesting.RunTestGetListWithErrorAggregation(t.Context(), t, f, corruptObject(t))
	})
	run("Watch", func(t *testing.T, env *harness.Env) {
		f := newFixtureWith(t, env, "", codec)
		storagetesting.RunTestWatchWithUnsafeDelete(t.Context(), t, f, corruptObject(t))
	})
}

// breakingCodec cannot decode while it is told so.
type breakingCodec struct {
	runtime.Codec
	breakable
}

func (c *breakingCodec) set(broken bool) { c.broken.Store(broken) }

func (c *breakingCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if c.broken.Load() {
		return nil, nil, errors.New("undecodable on purpose")
	}
	return c.Codec.Decode(data, defaults, into)
}
