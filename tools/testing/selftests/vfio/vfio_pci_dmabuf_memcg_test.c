// SPDX-License-Identifier: GPL-2.0-only
/*
 * A process that maps DMABUFs allocates page tables, and where it exceeds the
 * memory.high of its cgroup such an allocation sleeps for seconds. The owner of
 * the device, which resets it meanwhile or revokes the DMABUFs, must not wait for
 * that.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <linux/compiler.h>
#include <linux/limits.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define NR_THREADS	16

/* In each thread, and each with a page table of its own */
#define NR_MAPPINGS	512

/* An allocation may sleep for 2 seconds, and a call may take long, but not this. */
#define MAX_CALL_S	10

static const char *device_bdf;

/* What is shared with the client */
struct shared {
	pid_t tids[NR_THREADS];
	/* Its DMABUFs are, or are about to be. */
	bool revoked;
};

/* A thread of the client */
struct toucher {
	pthread_barrier_t *barrier;
	pthread_t thread;
	struct shared *shared;
	pid_t *tid;
	int fd;
	void *vaddr;
};

/* Whether a thread sleeps, where no signal wakes it, and which of its sleeps it is */
struct thread_state {
	bool sleeps;
	u64 nr_sleeps;
};

FIXTURE(vfio_pci_dmabuf_memcg_test) {
	struct vfio_pci_device *device;
	int bar;
	char mount[32];
	char cgroup[64];
	bool was_enabled;
	struct client client;
	struct shared *shared;
	int fds[NR_THREADS];
};

FIXTURE_VARIANT(vfio_pci_dmabuf_memcg_test) {
	int nr_dmabufs;
};

/* One to wait for, and many to wait for one after the other */
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_memcg_test, one_dmabuf) {
	.nr_dmabufs = 1,
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_memcg_test, many_dmabufs) {
	.nr_dmabufs = NR_THREADS,
};

#define fixture_data		FIXTURE_DATA(vfio_pci_dmabuf_memcg_test)

static int cgroup_write(const char *dir, const char *name, const char *value)
{
	char path[PATH_MAX];
	int fd, ret;

	snprintf_assert(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return -errno;
	ret = write(fd, value, strlen(value)) < 0 ? -errno : 0;
	VFIO_ASSERT_EQ(close(fd), 0);
	return ret;
}

/* Whether one of the words in a file is this one */
static bool cgroup_has(const char *dir, const char *name, const char *word)
{
	char path[PATH_MAX], buffer[256] = {}, *next = buffer, *token;
	int fd;

	snprintf_assert(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return false;
	VFIO_ASSERT_GE(read(fd, buffer, sizeof(buffer) - 1), 0);
	VFIO_ASSERT_EQ(close(fd), 0);

	while ((token = strsep(&next, "\n "))) {
		if (!strcmp(token, word))
			return true;
	}
	return false;
}

static void cgroup_umount(fixture_data *self)
{
	VFIO_ASSERT_EQ(umount(self->mount), 0);
	VFIO_ASSERT_EQ(rmdir(self->mount), 0);
}

/*
 * Make a cgroup whose processes are throttled, whatever they use. Returns why that is
 * not possible, or NULL.
 */
static const char *cgroup_setup(fixture_data *self)
{
	snprintf_assert(self->mount, sizeof(self->mount), "/tmp/vfio_cgroup_XXXXXX");
	VFIO_ASSERT_NOT_NULL(mkdtemp(self->mount));
	if (mount("none", self->mount, "cgroup2", 0, NULL)) {
		VFIO_ASSERT_EQ(rmdir(self->mount), 0);
		return "cgroup2 cannot be mounted";
	}
	if (!cgroup_has(self->mount, "cgroup.controllers", "memory")) {
		cgroup_umount(self);
		return "There is no memory controller in cgroup2";
	}

	self->was_enabled = cgroup_has(self->mount, "cgroup.subtree_control", "memory");
	if (!self->was_enabled &&
	    cgroup_write(self->mount, "cgroup.subtree_control", "+memory")) {
		cgroup_umount(self);
		return "The memory controller cannot be enabled";
	}

	snprintf_assert(self->cgroup, sizeof(self->cgroup), "%s/vfio_pci_dmabuf_memcg_test.%d",
			self->mount, getpid());
	VFIO_ASSERT_EQ(mkdir(self->cgroup, 0755), 0);
	VFIO_ASSERT_EQ(cgroup_write(self->cgroup, "memory.high", "0"), 0);
	return NULL;
}

static void cgroup_teardown(fixture_data *self)
{
	int ret;

	/* A process that was waited for may not be through with its exit. */
	do {
		ret = rmdir(self->cgroup);
		if (ret)
			usleep(1000);
	} while (ret && errno == EBUSY);
	VFIO_ASSERT_EQ(ret, 0);

	if (!self->was_enabled)
		VFIO_ASSERT_EQ(cgroup_write(self->mount, "cgroup.subtree_control", "-memory"), 0);
	cgroup_umount(self);
}

FIXTURE_SETUP(vfio_pci_dmabuf_memcg_test)
{
	struct mmap_target target;
	const char *reason;
	int i;

	reason = cgroup_setup(self);
	if (reason)
		SKIP(return, "%s", reason);

	self->device = vfio_pci_device_open(device_bdf, default_iommu_mode);
	reason = vfio_pci_function_reset.unsupported(self->device);
	if (!reason)
		reason = mmap_target_open_largest(&target, self->device, true);
	if (reason) {
		cgroup_teardown(self);
		SKIP(return, "%s", reason);
	}
	self->bar = target.bar;
	mmap_target_close(&target);

	for (i = 0; i < variant->nr_dmabufs; i++)
		self->fds[i] = vfio_pci_dmabuf_export_range(self->device, self->bar, 0,
							    getpagesize());
	self->shared = mmap(NULL, sizeof(*self->shared), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->shared);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_memcg_test)
{
	int i;

	if (self->client.pid)
		client_kill(&self->client);
	cgroup_teardown(self);
	VFIO_ASSERT_EQ(munmap(self->shared, sizeof(*self->shared)), 0);
	for (i = 0; i < variant->nr_dmabufs; i++)
		VFIO_ASSERT_EQ(close(self->fds[i]), 0);
	vfio_pci_device_close(self->device);
}

/* Something has failed, as it has to once the DMABUF is revoked. */
static void end_of_access(struct toucher *toucher)
{
	VFIO_ASSERT_TRUE(READ_ONCE(toucher->shared->revoked));
	for (;;)
		pause();
}

/* Map the DMABUF in many places, no two of which have a page table in common. */
static void map_all(struct toucher *toucher)
{
	void *vaddr;
	int i;

	for (i = 0; i < NR_MAPPINGS; i++) {
		vaddr = mmap(toucher->vaddr + (size_t)i * SZ_2M, getpagesize(),
			     PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, toucher->fd, 0);
		if (vaddr == MAP_FAILED)
			end_of_access(toucher);
	}
}

/*
 * Touch all of the mappings in one system call: a thread that exceeds memory.high
 * sleeps when it returns to user mode, and in the allocation only where it takes
 * too long until it does. And do that again and again, each time without the page
 * tables of the last time.
 */
static void *touch_all(void *arg)
{
	struct iovec iov[NR_MAPPINGS];
	struct toucher *toucher = arg;
	char buffer[NR_MAPPINGS];
	int i, fds[2];

	VFIO_ASSERT_EQ(pipe(fds), 0);
	for (i = 0; i < NR_MAPPINGS; i++) {
		iov[i].iov_base = toucher->vaddr + (size_t)i * SZ_2M;
		iov[i].iov_len = 1;
	}

	/* And what else it takes is there before there is a limit. */
	memset(buffer, 0, sizeof(buffer));
	WRITE_ONCE(*toucher->tid, gettid());
	pthread_barrier_wait(toucher->barrier);
	for (;;) {
		if (writev(fds[1], iov, NR_MAPPINGS) != NR_MAPPINGS)
			end_of_access(toucher);
		VFIO_ASSERT_EQ(read(fds[0], buffer, NR_MAPPINGS), NR_MAPPINGS);
		/* Nothing else may come here meanwhile. */
		VFIO_ASSERT_EQ(mmap(toucher->vaddr, (size_t)NR_MAPPINGS * SZ_2M, PROT_NONE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			       toucher->vaddr);
		map_all(toucher);
	}
	return NULL;
}

struct client_args {
	struct shared *shared;
	const char *cgroup;
	int nr_dmabufs;
};

static int client_main(int sock, void *arg)
{
	struct toucher touchers[NR_THREADS] = {};
	struct client_args *args = arg;
	pthread_barrier_t barrier;
	int i, fds[NR_THREADS];

	for (i = 0; i < args->nr_dmabufs; i++)
		fds[i] = recv_fd(sock);

	/* Only the threads are to be throttled, and that when all is there. */
	VFIO_ASSERT_EQ(pthread_barrier_init(&barrier, NULL, NR_THREADS + 1), 0);
	for (i = 0; i < NR_THREADS; i++) {
		touchers[i].barrier = &barrier;
		touchers[i].shared = args->shared;
		touchers[i].tid = &args->shared->tids[i];
		touchers[i].fd = fds[i % args->nr_dmabufs];
		touchers[i].vaddr = mmap_reserve((size_t)NR_MAPPINGS * SZ_2M, SZ_2M, 0);
		map_all(&touchers[i]);
		VFIO_ASSERT_EQ(pthread_create(&touchers[i].thread, NULL, touch_all,
					      &touchers[i]), 0);
	}
	VFIO_ASSERT_EQ(cgroup_write(args->cgroup, "cgroup.procs", "0"), 0);
	pthread_barrier_wait(&barrier);
	for (i = 0; i < NR_THREADS; i++)
		VFIO_ASSERT_EQ(pthread_join(touchers[i].thread, NULL), 0);
	return 0;
}

static struct thread_state thread_state(fixture_data *self, int thread)
{
	struct thread_state state = {};
	char path[64], line[256];
	FILE *file;

	snprintf_assert(path, sizeof(path), "/proc/%d/task/%d/status", self->client.pid,
			READ_ONCE(self->shared->tids[thread]));
	file = fopen(path, "r");
	VFIO_ASSERT_NOT_NULL(file);
	while (fgets(line, sizeof(line), file)) {
		if (!strncmp(line, "State:\tD", strlen("State:\tD")))
			state.sleeps = true;
		if (!strncmp(line, "voluntary", strlen("voluntary")))
			state.nr_sleeps = strtoull(strchr(line, ':') + 1, NULL, 0);
	}
	VFIO_ASSERT_EQ(fclose(file), 0);
	return state;
}

/* Look at all threads. Returns how many of them sleep. */
static int thread_states(fixture_data *self, struct thread_state *states)
{
	int i, nr = 0;

	for (i = 0; i < NR_THREADS; i++) {
		states[i] = thread_state(self, i);
		nr += states[i].sleeps;
	}
	return nr;
}

/* Have a client whose threads are throttled. */
static void start_client(fixture_data *self, int nr_dmabufs)
{
	struct client_args args = {
		.shared = self->shared,
		.cgroup = self->cgroup,
		.nr_dmabufs = nr_dmabufs,
	};
	int i;

	self->client = client_start(client_main, &args);
	for (i = 0; i < nr_dmabufs; i++)
		send_fd(self->client.sock, self->fds[i]);
	for (i = 0; i < NR_THREADS; i++) {
		while (!READ_ONCE(self->shared->tids[i]))
			usleep(1000);
	}
}

/*
 * Do something while most of the threads sleep, which takes no longer than it may.
 * Returns whether most of those are still in the same sleep.
 */
static bool do_while_they_sleep(struct __test_metadata *_metadata, fixture_data *self,
				void (*call)(fixture_data *self))
{
	struct thread_state before[NR_THREADS], after[NR_THREADS];
	int i, nr_before, nr_same = 0;
	struct timespec start, end;

	do {
		usleep(1000);
		nr_before = thread_states(self, before);
	} while (nr_before <= NR_THREADS / 2);

	VFIO_ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &start), 0);
	call(self);
	VFIO_ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &end), 0);

	thread_states(self, after);
	for (i = 0; i < NR_THREADS; i++)
		nr_same += before[i].sleeps && after[i].sleeps &&
			   before[i].nr_sleeps == after[i].nr_sleeps;
	TH_LOG("%d of %d threads still sleep after %ld s", nr_same, nr_before,
	       (long)(end.tv_sec - start.tv_sec));
	EXPECT_GE(MAX_CALL_S, end.tv_sec - start.tv_sec);
	return 2 * nr_same > nr_before;
}

static void reset(fixture_data *self)
{
	vfio_pci_device_reset(self->device);
}

/*
 * If a reset waits for threads that are throttled, they do not sleep any more when
 * it ends, or they do so once more. So reset the device while most of them sleep,
 * and see whether most of those are still in the same sleep. A reset may take as
 * long as that for a reason of its own, but not each time.
 */
TEST_F(vfio_pci_dmabuf_memcg_test, reset_does_not_wait)
{
	bool same_sleep = false;
	int try;

	start_client(self, variant->nr_dmabufs);
	for (try = 0; try < 10 && !same_sleep; try++)
		same_sleep = do_while_they_sleep(_metadata, self, reset);
	ASSERT_TRUE(same_sleep);
}

static void revoke_all(fixture_data *self)
{
	int i;

	WRITE_ONCE(self->shared->revoked, true);
	for (i = 0; i < NR_THREADS && self->fds[i]; i++)
		vfio_pci_dmabuf_revoke(self->device, self->fds[i]);
}

/* A revoke has no such reason, and there is only one. */
TEST_F(vfio_pci_dmabuf_memcg_test, revoke_does_not_wait)
{
	const char *reason = vfio_pci_no_dmabuf_revoke(self->device);

	if (reason)
		SKIP(return, "%s", reason);

	start_client(self, variant->nr_dmabufs);
	ASSERT_TRUE(do_while_they_sleep(_metadata, self, revoke_all));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
