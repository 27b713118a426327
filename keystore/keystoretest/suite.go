// Package keystoretest holds what every keystore.Store has in common, as a suite of tests that each of them runs:
//
//	func TestConformance(t *testing.T) {
//		keystoretest.Run(t, func(t *testing.T) keystoretest.Opener { ... })
//	}
package keystoretest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// Opener opens one and the same store anew: each call is another instance of it, as another process would have.
// The suite closes what it opens.
type Opener func(t *testing.T) keystore.Store

// Run runs the suite. Create makes a new and empty store for each test and returns its Opener; what it leaves behind
// it removes with t.Cleanup.
func Run(t *testing.T, create func(t *testing.T) Opener) {
	tests := []struct {
		name string
		run  func(*testing.T, Opener)
	}{
		{"CreateGetUpdateDelete", testLife},
		{"GetSeesOtherInstances", testGetSeesOtherInstances},
		{"VersionsOnlyGrow", testVersionsOnlyGrow},
		{"DeletedAndMadeAgain", testDeletedAndMadeAgain},
		{"ExpectMustHold", testExpectMustHold},
		{"BytesAreKept", testBytesAreKept},
		{"SlicesAreNotShared", testSlicesAreNotShared},
		{"RefsAreDistinct", testRefsAreDistinct},

		{"BatchAllOrNothing", testBatchAllOrNothing},
		{"BatchSharesOneVersion", testBatchSharesOneVersion},
		{"CheckGuardsBatch", testCheckGuardsBatch},
		{"CheckChangesNothing", testCheckChangesNothing},
		{"BatchLimits", testBatchLimits},
		{"MalformedBatch", testMalformedBatch},

		{"UniqueIndex", testUniqueIndex},
		{"Range", testRange},
		{"UniqueIndexesAreApart", testUniqueIndexesAreApart},
		{"PrincipalNamesAreUnique", testPrincipalNamesAreUnique},
		{"UniqueValueIsFreed", testUniqueValueIsFreed},
		{"UniqueValueMoves", testUniqueValueMoves},
		{"UniqueValuesSwap", testUniqueValuesSwap},
		{"ConflictBeforeExists", testConflictBeforeExists},
		{"PutReplacesEntries", testPutReplacesEntries},
		{"LookupByValue", testLookupByValue},
		{"LookupAll", testLookupAll},
		{"LookupPages", testLookupPages},

		{"ListIsOrderedAndApart", testListIsOrderedAndApart},
		{"ListPages", testListPages},
		{"ListPagesWhileOthersWrite", testListPagesWhileOthersWrite},
		{"AllReadsEveryKind", testAllReadsEveryKind},
		{"PageLimits", testPageLimits},
		{"SnapshotIsOneMoment", testSnapshotIsOneMoment},

		{"NoLostUpdate", testNoLostUpdate},
		{"OneWinnerOfUniqueValue", testOneWinnerOfUniqueValue},
		{"BatchesAreSeenWhole", testBatchesAreSeenWhole},

		{"ChangesAreNamed", testChangesAreNamed},
		{"ChangesRest", testChangesRest},
		{"ChangesMissNone", testChangesMissNone},
		{"ChangesAreToldWhole", testChangesAreToldWhole},
		{"ChangesSinceAnUnknownMark", testChangesSinceAnUnknownMark},
		{"ChangesAfterALongTime", testChangesAfterALongTime},
		{"MarksOutliveTheInstance", testMarksOutliveTheInstance},

		{"InstancesAreUnique", testInstancesAreUnique},
		{"TakeOverAlive", testTakeOverAlive},
		{"TakeOverDead", testTakeOverDead},
		{"TakeOverOneWinner", testTakeOverOneWinner},
		{"TakeOverUnknownName", testTakeOverUnknownName},
		{"TakeOverOfAnUnknownInstance", testTakeOverOfAnUnknownInstance},

		{"CancelledContext", testCancelledContext},
		{"UseAfterClose", testUseAfterClose},
		{"CloseUnderLoad", testCloseUnderLoad},
		{"VerifyAcceptsRecords", testVerifyAcceptsRecords},
		{"VerifyFindsForeignValue", testVerifyFindsForeignValue},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			open := create(t)
			test.run(t, func(t *testing.T) keystore.Store {
				s := open(t)
				t.Cleanup(func() { _ = s.Close() }) // most tests have no interest in it, and some have closed already
				return s
			})
		})
	}
}

const (
	region  = "us-east-1"
	account = "111122223333"
)

func ref(id string) keystore.Ref { return keystore.KeyRef(region, account, id) }

func put(id string, expect uint64, value string, index ...keystore.Entry) keystore.Change {
	return keystore.Change{Op: keystore.Put, Ref: ref(id), Expect: expect, Value: []byte(value), Index: index}
}

func del(id string, expect uint64) keystore.Change {
	return keystore.Change{Op: keystore.Delete, Ref: ref(id), Expect: expect}
}

func check(id string, expect uint64) keystore.Change {
	return keystore.Change{Op: keystore.Check, Ref: ref(id), Expect: expect}
}

func ckaID(value string) keystore.Entry {
	return keystore.Entry{Index: keystore.IndexCKAID, Value: value}
}

func unfinished(instance string) keystore.Entry {
	return keystore.Entry{Index: keystore.IndexUnfinished, Value: instance}
}

// mustCommit commits what has to succeed.
func mustCommit(t *testing.T, s keystore.Store, changes ...keystore.Change) uint64 {
	t.Helper()
	version, err := s.Commit(t.Context(), changes...)
	require.NoError(t, err)
	return version
}

// mustGet reads what has to be there.
func mustGet(t *testing.T, s keystore.Store, id string) keystore.Record {
	t.Helper()
	rec, err := s.Get(t.Context(), ref(id))
	require.NoError(t, err)
	return rec
}

func requireAbsent(t *testing.T, s keystore.Store, id string) {
	t.Helper()
	_, err := s.Get(t.Context(), ref(id))
	require.ErrorIs(t, err, keystore.ErrNotFound)
}

// ids names the records of a page, in its order.
func ids(recs []keystore.Record) []string {
	names := []string{}
	for _, rec := range recs {
		names = append(names, rec.Ref.ID)
	}
	return names
}
