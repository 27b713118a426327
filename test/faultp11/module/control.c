/* The control channel: a unix socket named after the process. Each line is a command; its answer is lines and then "ok" or "error: ...".
 * What a command sets is in force when its answer has come. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "faultp11.h"

static void print_counters(FILE *to) {
	for (int f = 0; f < FUNCTION_COUNT; f++) {
		struct counters *n = &counters[f];
		if (atomic_load(&n->calls) || atomic_load(&n->inside))
			fprintf(to, "%s calls=%lu queries=%lu faults=%lu lost=%lu inside=%ld hanging=%ld\n", function_names[f], atomic_load(&n->calls),
				atomic_load(&n->queries), atomic_load(&n->faults), atomic_load(&n->lost), atomic_load(&n->inside),
				atomic_load(&n->hanging));
	}
}

/* reset forgets what was counted. What is inside stays so. */
static void reset(void) {
	for (int f = 0; f < FUNCTION_COUNT; f++) {
		atomic_store(&counters[f].calls, 0);
		atomic_store(&counters[f].queries, 0);
		atomic_store(&counters[f].faults, 0);
		atomic_store(&counters[f].lost, 0);
	}
	forget_violations();
}

static const char *release(char **words, int n) {
	unsigned char functions[FUNCTION_COUNT] = {0};
	char all[] = "*";
	const char *problem = parse_functions(functions, n > 1 ? words[1] : all);
	if (!problem)
		rules_release(functions);
	return problem;
}

static void clear(void) {
	rules_clear();
	device_clear();
	vendor_clear();
}

static int is_one_of(const char *word, const char *list) {
	size_t n = strlen(word);
	for (const char *at = list; (at = strstr(at, word)); at += n)
		if ((at == list || at[-1] == ' ') && (at[n] == ' ' || !at[n]))
			return 1;
	return 0;
}

/* run runs one command and returns what is wrong with it. The caller holds lock. */
static const char *run(char **words, int n, FILE *to) {
	const char *verb = words[0];
	if (!strcmp(verb, "on"))
		return rules_add(words + 1, n - 1, to);
	if (!strcmp(verb, "remove"))
		return n == 2 && rules_remove(strtol(words[1], NULL, 10)) ? NULL : "there is no such rule";
	if (!strcmp(verb, "release"))
		return release(words, n);
	if (is_one_of(verb, "lose down up eject insert sessions"))
		return device_command(words, n);
	if (!strcmp(verb, "handles"))
		return handles_command(words, n);
	if (!strcmp(verb, "token"))
		return token_command(words, n);
	if (is_one_of(verb, "pin-prefix login-free hmac-types"))
		return vendor_command(words, n);
	if (!strcmp(verb, "counters"))
		print_counters(to);
	else if (!strcmp(verb, "violations"))
		print_violations(to);
	else if (!strcmp(verb, "codes"))
		print_codes(to);
	else if (!strcmp(verb, "open"))
		fprintf(to, "%zu\n", device_open());
	else if (!strcmp(verb, "reset"))
		reset();
	else if (!strcmp(verb, "clear"))
		clear();
	else
		return "no such command";
	return NULL;
}

/* control_run runs the command of a line and writes its answer. */
void control_run(char *line, FILE *to) {
	char *words[32], *rest;
	int n = 0;
	for (char *word = strtok_r(line, " \t\r\n", &rest); word && n < 32; word = strtok_r(NULL, " \t\r\n", &rest))
		words[n++] = word;
	if (!n)
		return;
	pthread_mutex_lock(&lock);
	const char *problem = run(words, n, to);
	set_quiet();
	pthread_mutex_unlock(&lock);
	if (problem)
		fprintf(to, "error: %s: %s\n", words[0], problem);
	else if (to != stderr)
		fprintf(to, "ok\n");
}

/* converse runs the commands of one client until it goes; 0 if it has said quit. */
static int converse(int fd) {
	char line[4096];
	int go_on = 1;
	FILE *from = fdopen(fd, "r"), *to = fdopen(fcntl(fd, F_DUPFD_CLOEXEC, 0), "w");
	while (go_on && from && to && fgets(line, sizeof line, from)) {
		if (!strncmp(line, "quit", 4))
			go_on = 0;
		else
			control_run(line, to);
		fflush(to);
	}
	if (from)
		fclose(from);
	if (to)
		fclose(to);
	return go_on;
}

struct channel {
	int fd;
	char path[108];
};

/* serve takes one client at a time, for as long as the process lives. */
static void *serve(void *arg) {
	struct channel *ch = arg;
	for (int go_on = 1; go_on;) {
		int client = accept4(ch->fd, NULL, NULL, SOCK_CLOEXEC);
		if (client >= 0)
			go_on = converse(client);
		else if (errno != EINTR && errno != ECONNABORTED)
			usleep(10000);
	}
	close(ch->fd);
	unlink(ch->path);
	free(ch);
	return NULL;
}

/* control_start listens on DIRECTORY/PID. Signals are the host's business, so the thread takes none. */
void control_start(const char *directory) {
	struct channel *ch = calloc(1, sizeof *ch);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	pthread_t thread;
	sigset_t all, before;
	if (!ch || snprintf(ch->path, sizeof ch->path, "%s/%d", directory, (int)getpid()) >= (int)sizeof ch->path) {
		fprintf(stderr, "faultp11: the path of the control directory is too long for a socket\n");
		free(ch);
		return;
	}
	/* Under another name until it is listened on: who sees the socket can use it. */
	snprintf(address.sun_path, sizeof address.sun_path, "%s", ch->path);
	address.sun_path[strlen(address.sun_path) - 1] = '-';
	unlink(address.sun_path);
	ch->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (ch->fd < 0 || bind(ch->fd, (struct sockaddr *)&address, sizeof address) || chmod(address.sun_path, 0600) ||
		listen(ch->fd, 16) || rename(address.sun_path, ch->path)) {
		fprintf(stderr, "faultp11: listening on %s: %s\n", ch->path, strerror(errno));
		free(ch);
		return;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&thread, NULL, serve, ch) == 0)
		pthread_detach(thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}
