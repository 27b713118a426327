package main

// goal is one figure that docs/performance.md promises, and where it is measured.
type goal struct {
	number    int
	what      string
	benchmark string // its full name, without the number of processors
	unit      string // x/RIVAL: how many times longer than the rival in the same run; us-more/RIVAL: how much longer
	most      float64
	least     float64 // in place of most
}

// goals are in the order in which they are measured, see groups.
var goals = []goal{
	{1, "GenerateMac, 1 goroutine", "Mac/GenerateMac/32B/1/no-deadline", "x/C", 1 / .9, 0},
	{1, "GenerateMac, 16 goroutines", "Mac/GenerateMac/32B/16/no-deadline", "x/C", 1 / .9, 0},
	{1, "VerifyMac, 1 goroutine", "Mac/VerifyMac/32B/1/no-deadline", "x/C", 1 / .9, 0},
	{1, "VerifyMac, 16 goroutines", "Mac/VerifyMac/32B/16/no-deadline", "x/C", 1 / .9, 0},
	{1, "GenerateMac, allocations", "Mac/GenerateMac/32B/1/no-deadline", "allocs/op", 6, 0},
	{1, "a context that can end, 1 goroutine", "Mac/GenerateMac/32B/1/deadline", "us-more/no-deadline", 2.5, 0},
	{1, "a context that can end, 16 goroutines", "Mac/GenerateMac/32B/16/deadline", "us-more/no-deadline", 2.5, 0},

	{2, "Sign with P-256, 1 goroutine", "Sign/ECC_NIST_P256/1/no-deadline", "x/miekg", 1.05, 0},
	{2, "Sign with P-256, 4 goroutines", "Sign/ECC_NIST_P256/4/no-deadline", "x/miekg", 1.05, 0},
	{2, "NSS, the root, 1 goroutine", "NSS/GenerateMac/root/1", "x/C", 1 / .4, 0},
	{2, "NSS, the root, 16 goroutines", "NSS/GenerateMac/root/16", "x/C", 1 / .4, 0},
	{2, "NSS, a caller with ten statements", "NSS/GenerateMac/ten-statements/1", "us-more/root", 2, 0},
	{8, "all but the token, ten statements", "NSS/GenerateMac/ten-statements/1", "us-more/C", 5, 0},

	{3, "1 ms a call, 64 sessions", "SlowToken/GenerateMac/64/no-deadline", "x/C", 1 / .9, 0},
	{3, "the same with a deadline", "SlowToken/GenerateMac/64/deadline", "x/C", 1 / .9, 0},
	{3, "with the machine's processors alone", "SlowToken/GenerateMac/64/no-deadline/few-processors", "x/C", 1 / .9, 0},

	{4, "server, 64 connections, CPU", "Server/GenerateMac/32B/64", "x-cpu-of-empty", 2, 0},
	{4, "server, 64 connections, rate", "Server/GenerateMac/32B/64", "%-of-empty", 0, 60},
	{4, "server, 64 connections, p99", "Server/GenerateMac/32B/64", "x-p99-of-empty", 1.5, 0},
	{4, "two processes on one port, rate", "TwoProcesses", "%-of-one", 0, 100},

	{5, "GenerateMac, 1,000,000 keys on record", "ManyRecords/GenerateMac", "x/10-keys", 1.1, 0},
	{5, "start with 1,000,000 keys on record", "ManyRecords/Start", "x/10-keys", 1.1, 0},
	{5, "first use of each of 1,000 keys", "ColdStart", "x/search", .1, 0},

	{6, "CreateKey", "CreateKey", "us-more/miekg+search+3fsync", 1000, 0},
	{6, "GenerateMac while RSA keys are made", "MacWhileMaking", "x/C_GenerateKeyPair", 1.1, 0},

	{7, "quiet server, CPU", "Quiet", "%-cpu", .5, 0},
	{7, "quiet server, 100 keys", "Quiet", "MiB-more/C", 40, 0},
	{7, "1,000 connections, 10,000 records", "Quiet", "MiB-more/C-busy", 200, 0},
	{7, "one more key in use", "CachedKey", "B/key", 1536, 0},

	{9, "a page of audit search by key", "AuditSearch/key", "ms/page", 1000, 0},
	{9, "by a key that is used seldom", "AuditSearch/key-seldom", "ms/page", 1000, 0},
	{9, "by principal", "AuditSearch/principal", "ms/page", 1000, 0},
	{9, "by a principal that is seen seldom", "AuditSearch/principal-seldom", "ms/page", 1000, 0},
	{9, "by key, before a time", "AuditSearch/key-by-time", "ms/page", 1000, 0},
	{9, "beside zcat and grep", "AuditSearch/key-seldom", "x/grep", .1, 0},
	{9, "indexes, of the closed files", "AuditSearch/key", "%-index", 10, 0},

	{10, "audit log, 64 connections, CPU", "AuditedServer/GenerateMac/32B/64", "%-more-cpu", 10, 0},
}

// group is what one process measures: the benchmarks that match, on the token that a script of test/tokens makes, or on a SoftHSM token of
// its own.
type group struct{ benchmarks, script string }

var groups = []group{
	{`^BenchmarkMac$/^(GenerateMac|VerifyMac)$/^32B$/^(1|16)$`, ""},
	{`^BenchmarkSign$`, ""},
	{`^BenchmarkNSS$`, "nss.sh"},
	{`^BenchmarkSlowToken$`, ""},
	{`^BenchmarkServer$`, ""},
	{`^BenchmarkTwoProcesses$`, ""},
	{`^BenchmarkManyRecords$`, ""},
	{`^Benchmark(CreateKey|MacWhileMaking)$`, ""},
	{`^BenchmarkColdStart$`, ""},
	{`^BenchmarkQuiet$`, ""},
	{`^BenchmarkCachedKey$`, ""},
	{`^BenchmarkAuditSearch$`, ""},
	{`^BenchmarkAuditedServer$`, ""},
}
