package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

// envRecords is how many records the log has that is searched; the goal is about 10,000,000, which takes some minutes to make.
const (
	envRecords     = "PKCS11KMS_BENCH_RECORDS"
	defaultRecords = 1_000_000
)

const (
	page      = 100     // records
	seldom    = 100_000 // one record in so many is of the key that is used seldom, and one of the user
	auditKeys = 10_000
	auditUser = "arn:aws:iam::111122223333:user/app-%d"
)

// BenchmarkAuditSearch measures a page of audit search in a log of many records, as a process leaves it that has used 10,000 keys for users
// of 1,000 names, one record a second, some much more often than others. The rival is zcat and grep, on one closed file; x/grep is reckoned
// from there for all of them.
func BenchmarkAuditSearch(b *testing.B) {
	records := defaultRecords
	if text := os.Getenv(envRecords); text != "" {
		var err error
		records, err = strconv.Atoi(text)
		require.NoError(b, err)
	}
	l := newAuditLog(b, records)
	for _, c := range []struct {
		name string
		q    audit.Query
		want int
	}{
		{"key", audit.Query{KeyID: l.keys[0]}, page},
		{"key-seldom", audit.Query{KeyID: l.seldomKey}, min(page, records/seldom)},
		{"principal", audit.Query{Principal: "app-0"}, page},
		{"principal-seldom", audit.Query{Principal: "seldom"}, min(page, records/seldom)},
		{"key-by-time", audit.Query{KeyID: l.seldomKey, Until: l.began.Add(time.Duration(records/2) * time.Second)}, min(page, records/seldom/2)},
		{"nothing", audit.Query{KeyID: uuid.NewString()}, 0},
	} {
		c.q.Max = page
		b.Run(c.name, func(b *testing.B) {
			grep := l.grep(b, c.q.KeyID+c.q.Principal)
			used := cpuOf(b, os.Getpid())
			b.ResetTimer()
			for range b.N {
				lines, err := audit.Search(b.Context(), l.dir, c.q)
				require.NoError(b, err)
				require.Len(b, lines, c.want)
			}
			used = cpuOf(b, os.Getpid()) - used
			took := b.Elapsed() / time.Duration(b.N)
			b.ReportMetric(float64(took.Microseconds())/1e3, "ms/page")
			b.ReportMetric(float64(used.Microseconds())/1e3/float64(b.N), "cpu-ms/page")
			b.ReportMetric(float64(took)/float64(grep), "x/grep")
			b.ReportMetric(float64(records), "records")
			b.ReportMetric(l.share, "%-index")
		})
	}
}

type auditLog struct {
	dir       string
	keys      []string
	seldomKey string
	began     time.Time
	closed    []string // files
	share     float64  // of the indexes' size in that of the files, in percent
}

func newAuditLog(b *testing.B, records int) *auditLog {
	l := &auditLog{dir: filepath.Join(b.TempDir(), "audit"), seldomKey: uuid.NewString(), began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	for range auditKeys {
		l.keys = append(l.keys, uuid.NewString())
	}
	var n atomic.Int64
	log, err := audit.Open(l.dir, audit.Options{Fsync: audit.FsyncOff,
		Now: func() time.Time { return l.began.Add(time.Duration(n.Load()) * time.Second) }})
	require.NoError(b, err)
	began := time.Now()
	var callers sync.WaitGroup
	for caller := range 16 {
		callers.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(caller)))
			often := rand.NewZipf(r, 1.1, 10, auditKeys-1)
			for {
				at := n.Add(1)
				if at > int64(records) {
					return
				}
				if err := log.Record(b.Context(), l.event(at, int(often.Uint64()))); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	callers.Wait()
	require.NoError(b, log.Close())
	l.measure(b)
	b.Logf("%d records in %d closed files were made in %v", records, len(l.closed), time.Since(began).Round(time.Second))
	return l
}

func (l *auditLog) event(n int64, often int) audit.Event {
	key, user, id := l.keys[often], fmt.Sprintf(auditUser, often%1000), uuid.NewString()
	switch n % seldom {
	case 1:
		key = l.seldomKey
	case 2:
		user = "arn:aws:iam::111122223333:user/seldom"
	}
	return audit.Event{Service: "kms", Operation: "GenerateMac", ReadOnly: true, Region: "eu-west-1", Account: "111122223333",
		Principal: user, PrincipalID: "AIDA" + user[len(user)-5:], RequestID: id,
		Origin: audit.Origin{Remote: true, AccessKeyID: "AKIA" + user[len(user)-5:], UserAgent: "Boto3/1.34", TLSVersion: 0x304,
			Host: "kms.internal"},
		Resource: "arn:aws:kms:eu-west-1:111122223333:key/" + key,
		Input:    &kms.GenerateMacInput{KeyId: &key, MacAlgorithm: "HMAC_SHA_256"}, Recorded: recordedMembers}
}

var recordedMembers = []string{"keyId", "macAlgorithm"}

// measure notes the closed files, and the size of their indexes.
func (l *auditLog) measure(b *testing.B) {
	size := func(pattern string) (paths []string, sum float64) {
		paths, err := filepath.Glob(filepath.Join(l.dir, pattern))
		require.NoError(b, err)
		for _, path := range paths {
			info, err := os.Stat(path)
			require.NoError(b, err)
			sum += float64(info.Size())
		}
		return paths, sum
	}
	closed, packed := size("*.gz")
	require.NotEmpty(b, closed)
	_, indexes := size("*.index")
	l.closed, l.share = closed, 100*indexes/packed
}

// grep is how long zcat and grep take for a text in all closed files, reckoned from one.
func (l *auditLog) grep(b *testing.B, text string) time.Duration {
	began := time.Now()
	out, err := exec.Command("sh", "-c", `zcat "$1" | grep -Fc -- "$2" || true`, "sh", l.closed[0], text).CombinedOutput()
	require.NoError(b, err, "%s", out)
	return time.Since(began) * time.Duration(len(l.closed))
}
