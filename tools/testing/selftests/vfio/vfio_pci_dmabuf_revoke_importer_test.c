// SPDX-License-Identifier: GPL-2.0-only
/*
 * A revoke of a DMABUF waits for the importers in the kernel that have it mapped,
 * and for nobody else. The CPU's access is gone before, nobody else waits, and a
 * signal ends it.
 *
 * The device imports its own memory, which every machine can do. A second one,
 * if given, imports it instead. What iommufd does is in vfio_pci_dmabuf_iommufd_test.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <linux/compiler.h>
#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

/* A machine may be slow. Nothing that is waited for here takes long. */
#define PATIENCE_MS	20000

/* Enough for what does not wait to be done, and to be seen to be so */
#define CHANCE_MS	200

/* Without a driver that says more a device reaches 4 GiB, some of which is in use. */
#define MAX_SIZE	SZ_2M

static const char *device_bdf, *importer_bdf;

struct revoke_test;

/*
 * A process that revokes. Whatever might wait for an importer must not be done by
 * the process that has it: an importer lets go when that exits, and not before.
 */
struct revoker {
	struct revoke_test *test;
	struct client client;
	/* Shared with it: how it ended, if that was not before it had to, and on the way */
	struct {
		int ret;
		bool released;
		u64 nr_eintr;
	} *result;
};

struct revoke_test {
	struct vfio_pci_device *device;
	/* Some of a BAR, as the DMABUF that is imported and revoked, and once more */
	struct mmap_target target;
	struct mmap_target other;
	void *vaddr;
	int importer;
	int second_importer;

	/* Shared, set just before what a revoker waits for */
	bool *released;
	struct revoker revokers[2];

	/* More processes, for the same reason */
	void (*call)(struct vfio_pci_device *device);
	struct client caller;
	struct client bystander;
};

static void *map_shared(size_t size)
{
	void *vaddr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	return vaddr;
}

static int export(struct revoke_test *test)
{
	return vfio_pci_dmabuf_export_range(test->device, test->target.bar, 0, test->target.size);
}

static int attach(struct revoke_test *test, enum vfio_dmabuf_importer_unmap unmap)
{
	return importer_attach(test->importer, test->target.fd, importer_bdf, unmap, 0);
}

/* Returns why the test cannot be done, or NULL. */
static const char *revoke_test_setup(struct revoke_test *test)
{
	const char *reason = importer_missing();
	int i, ret;

	if (reason)
		return reason;

	test->device = vfio_pci_device_open(device_bdf, MODE_IOMMUFD);
	reason = vfio_pci_no_dmabuf_revoke(test->device);
	if (!reason)
		reason = mmap_target_open_largest(&test->target, test->device, true);
	if (reason)
		return reason;
	mmap_target_close(&test->target);
	test->target.size = min_t(u64, test->target.size, MAX_SIZE);

	test->importer = importer_open();
	test->second_importer = importer_open();
	if (strcmp(importer_bdf, device_bdf)) {
		/* Not one of those that are tested, which nobody has mapped before */
		test->target.fd = export(test);
		VFIO_ASSERT_EQ(attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED), 0);
		ret = importer_map(test->importer);
		VFIO_ASSERT_EQ(importer_detach(test->importer), 0);
		mmap_target_close(&test->target);
		if (ret == -EINVAL)
			return "The devices cannot reach each other";
	}

	test->target.fd = export(test);
	test->other = test->target;
	test->other.fd = export(test);
	test->vaddr = mmap_target_map(&test->target, 0, test->target.size);
	VFIO_ASSERT_TRUE(mmio_try_touch(test->vaddr));
	test->released = map_shared(sizeof(*test->released));
	for (i = 0; i < ARRAY_SIZE(test->revokers); i++) {
		test->revokers[i].test = test;
		test->revokers[i].result = map_shared(sizeof(*test->revokers[i].result));
	}
	return NULL;
}

static void revoke_test_teardown(struct revoke_test *test)
{
	struct client *clients[] = {
		&test->revokers[0].client, &test->revokers[1].client,
		&test->caller, &test->bystander,
	};
	int i;

	/* Whatever the others wait for */
	importer_close(test->importer);
	importer_close(test->second_importer);
	for (i = 0; i < ARRAY_SIZE(clients); i++) {
		if (clients[i]->pid)
			client_kill(clients[i]);
	}
	VFIO_ASSERT_EQ(munmap(test->vaddr, test->target.size), 0);
	mmap_target_close(&test->other);
	mmap_target_close(&test->target);
	if (test->device)
		vfio_pci_device_close(test->device);
}

static void ignore_signal(int sig)
{
}

/* Revoke, as often as it takes. */
static int revoker_main(int sock, void *arg)
{
	struct revoker *revoker = arg;
	struct revoke_test *test = revoker->test;
	struct sigaction action = {
		.sa_handler = ignore_signal,
		/* Nor may it be restarted, or it would not be known that it waits. */
		.sa_flags = SA_RESTART,
	};
	int dmabuf, ret;

	VFIO_ASSERT_EQ(sigaction(SIGUSR1, &action, NULL), 0);
	test->device->fd = recv_fd(sock);
	dmabuf = recv_fd(sock);
	client_sync(sock);

	for (;;) {
		ret = __vfio_pci_dmabuf_revoke(test->device, dmabuf);
		if (ret != -EINTR)
			break;
		WRITE_ONCE(revoker->result->nr_eintr, revoker->result->nr_eintr + 1);
	}
	revoker->result->released = READ_ONCE(*test->released);
	revoker->result->ret = ret;
	return 0;
}

static void revoke_start_fd(struct revoke_test *test, int i, int fd)
{
	struct revoker *revoker = &test->revokers[i];

	memset(revoker->result, 0, sizeof(*revoker->result));
	revoker->client = client_start(revoker_main, revoker);
	send_fd(revoker->client.sock, test->device->fd);
	send_fd(revoker->client.sock, fd);
	client_sync(revoker->client.sock);
}

static void revoke_start(struct revoke_test *test, int i)
{
	revoke_start_fd(test, i, test->target.fd);
}

/* What it returned, -ETIMEDOUT if it did not */
static int revoke_finish(struct revoke_test *test, int i)
{
	struct revoker *revoker = &test->revokers[i];
	int ret = client_finish(&revoker->client);

	return ret ?: revoker->result->ret;
}

/* One that nothing keeps waiting */
static int revoke_fd(struct revoke_test *test, int fd)
{
	revoke_start_fd(test, 0, fd);
	return revoke_finish(test, 0);
}

/* Whether a process sleeps in the call that revokes, or will within the time */
static bool waits(struct revoke_test *test, int i)
{
	char path[64], buffer[128];
	unsigned long fd, cmd;
	int file, nr, tries;
	bool ret = false;

	snprintf_assert(path, sizeof(path), "/proc/%d/syscall", test->revokers[i].client.pid);
	for (tries = 0; tries < PATIENCE_MS && !ret; tries++) {
		file = open(path, O_RDONLY);
		VFIO_ASSERT_GE(file, 0);
		memset(buffer, 0, sizeof(buffer));
		if (read(file, buffer, sizeof(buffer) - 1) > 0)
			ret = sscanf(buffer, "%d %lx %lx", &nr, &fd, &cmd) == 3 &&
			      nr == SYS_ioctl && cmd == VFIO_DEVICE_PCI_DMABUF_REVOKE;
		VFIO_ASSERT_EQ(close(file), 0);
		if (!ret)
			usleep(1000);
	}
	return ret;
}

/* It waits, and does not get through with it. */
static bool is_stuck(struct revoke_test *test, int i)
{
	return waits(test, i) && !client_done(&test->revokers[i].client, CHANCE_MS) &&
	       waits(test, i);
}

/* Wait until an importer has been told this often. */
static bool told(int importer, u64 nr)
{
	int i;

	for (i = 0; i < PATIENCE_MS && importer_nr_invalidated(importer) < nr; i++)
		usleep(1000);
	return importer_nr_invalidated(importer) == nr;
}

/* No process can access the DMABUF, whatever importers do. */
static bool is_unreachable(struct revoke_test *test)
{
	return !mmio_try_touch(test->vaddr) && mmio_sigbus_addr() == test->vaddr &&
	       !mmio_try_touch(test->vaddr + test->target.size - sizeof(u32)) &&
	       !mmap_target_try_touch(&test->target);
}

static bool becomes_unreachable(struct revoke_test *test)
{
	int i;

	for (i = 0; i < PATIENCE_MS && mmio_try_touch(test->vaddr); i++)
		usleep(1000);
	return is_unreachable(test);
}

FIXTURE(vfio_pci_dmabuf_revoke_importer_test) {
	struct revoke_test test;
};

FIXTURE_SETUP(vfio_pci_dmabuf_revoke_importer_test)
{
	const char *reason = revoke_test_setup(&self->test);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_revoke_importer_test)
{
	revoke_test_teardown(&self->test);
}

TEST_F(vfio_pci_dmabuf_revoke_importer_test, told_and_drained)
{
	struct revoke_test *test = &self->test;
	int i, fd;

	/* At once, and not at once */
	for (i = 0; i < 4; i++) {
		fd = export(test);
		ASSERT_EQ(0, importer_attach(test->importer, fd, importer_bdf,
					     VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, i % 2 ? 20 : 0));
		ASSERT_EQ(0, importer_map(test->importer));
		ASSERT_EQ(test->target.size, importer_mapped(test->importer));

		ASSERT_EQ(0, revoke_fd(test, fd));
		ASSERT_EQ(0, importer_mapped(test->importer));
		ASSERT_EQ(1, importer_nr_invalidated(test->importer));
		ASSERT_EQ(-EBADFD, revoke_fd(test, fd));
		ASSERT_EQ(1, importer_nr_invalidated(test->importer));

		ASSERT_EQ(-ENODEV, importer_map(test->importer));
		ASSERT_EQ(-ENODEV, importer_attach(test->second_importer, fd, importer_bdf, 0, 0));
		ASSERT_EQ(0, importer_detach(test->importer));
		ASSERT_EQ(-ENODEV, importer_attach(test->importer, fd, importer_bdf, 0, 0));
		ASSERT_EQ(0, close(fd));
	}
}

/* It is attached, and comes too late to map. */
TEST_F(vfio_pci_dmabuf_revoke_importer_test, late)
{
	struct revoke_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_CLOSE));
	ASSERT_EQ(0, revoke_fd(test, test->target.fd));
	ASSERT_EQ(0, importer_nr_invalidated(test->importer));
	ASSERT_EQ(-ENODEV, importer_map(test->importer));
	ASSERT_EQ(-EBADFD, revoke_fd(test, test->target.fd));
	ASSERT_EQ(-ENODEV, importer_map(test->importer));
	ASSERT_TRUE(is_unreachable(test));
}

/* The memory is the importer's no longer, which is no use of its own. */
TEST_F(vfio_pci_dmabuf_revoke_importer_test, another_dmabuf)
{
	struct revoke_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_CLOSE));
	ASSERT_EQ(0, importer_map(test->importer));
	ASSERT_EQ(0, revoke_fd(test, test->other.fd));
	ASSERT_EQ(0, importer_nr_invalidated(test->importer));
	ASSERT_EQ(test->target.size, importer_mapped(test->importer));
	ASSERT_EQ(0, mmio_count_faults(test->vaddr, 1, 1));
}

/* What can keep a revoke waiting, and what ends that */
FIXTURE(vfio_pci_dmabuf_revoke_stuck_test) {
	struct revoke_test test;
};

FIXTURE_VARIANT(vfio_pci_dmabuf_revoke_stuck_test) {
	enum vfio_dmabuf_importer_unmap unmap;
	int (*hold)(int importer);
	int (*release)(int importer);
	/* The importer cannot even be told. */
	bool untold;
};

/* An importer that has it mapped */
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_revoke_stuck_test, mapped) {
	.unmap = VFIO_DMABUF_IMPORTER_UNMAP_IOCTL,
	.release = importer_unmap,
};

/* One that unmaps it when it is told to, with work that is not done until its fence says so */
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_revoke_stuck_test, fence) {
	.unmap = VFIO_DMABUF_IMPORTER_UNMAP_DELAYED,
	.hold = importer_add_fence,
	.release = importer_signal_fence,
};

/* One that has the lock of the reservation */
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_revoke_stuck_test, locked) {
	.unmap = VFIO_DMABUF_IMPORTER_UNMAP_DELAYED,
	.hold = importer_lock,
	.release = importer_unlock,
	.untold = true,
};

#define stuck_data		FIXTURE_DATA(vfio_pci_dmabuf_revoke_stuck_test)
#define stuck_variant		FIXTURE_VARIANT(vfio_pci_dmabuf_revoke_stuck_test)

FIXTURE_SETUP(vfio_pci_dmabuf_revoke_stuck_test)
{
	const char *reason = revoke_test_setup(&self->test);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_revoke_stuck_test)
{
	revoke_test_teardown(&self->test);
}

/* Have a revoke wait. The CPU's access goes before that, and the importer is told. */
static void get_stuck(struct __test_metadata *_metadata, stuck_data *self,
		      const stuck_variant *variant)
{
	struct revoke_test *test = &self->test;

	ASSERT_EQ(0, attach(test, variant->unmap));
	ASSERT_EQ(0, importer_map(test->importer));
	if (variant->hold)
		ASSERT_EQ(0, variant->hold(test->importer));
	ASSERT_TRUE(mmap_target_try_touch(&test->target));

	revoke_start(test, 0);
	ASSERT_TRUE(variant->untold ? becomes_unreachable(test) : told(test->importer, 1));
	/* It has been told, so this has to be true already. */
	ASSERT_TRUE(is_unreachable(test));
	ASSERT_TRUE(is_stuck(test, 0));
	ASSERT_EQ(variant->untold ? 0 : 1, importer_nr_invalidated(test->importer));
}

static void release(struct __test_metadata *_metadata, stuck_data *self,
		    const stuck_variant *variant)
{
	WRITE_ONCE(*self->test.released, true);
	ASSERT_EQ(0, variant->release(self->test.importer));
}

/* A revoker has returned this, and only after it was released. */
static void expect_done(struct __test_metadata *_metadata, stuck_data *self, int i, int ret)
{
	struct revoke_test *test = &self->test;

	ASSERT_EQ(ret, revoke_finish(test, i));
	ASSERT_TRUE(test->revokers[i].result->released);
	ASSERT_EQ(0, importer_mapped(test->importer));
	ASSERT_TRUE(is_unreachable(test));
}

TEST_F(vfio_pci_dmabuf_revoke_stuck_test, cpu_first)
{
	get_stuck(_metadata, self, variant);
	release(_metadata, self, variant);
	expect_done(_metadata, self, 0, 0);
	ASSERT_EQ(-EBADFD, revoke_fd(&self->test, self->test.target.fd));
	ASSERT_EQ(-ENODEV, importer_map(self->test.importer));
}

/* A second call waits as the first one did. */
TEST_F(vfio_pci_dmabuf_revoke_stuck_test, interrupted)
{
	struct revoke_test *test = &self->test;
	struct revoker *revoker = &test->revokers[0];
	int i, tries;

	get_stuck(_metadata, self, variant);
	for (i = 1; i <= 3; i++) {
		ASSERT_EQ(0, kill(revoker->client.pid, SIGUSR1));
		for (tries = 0; tries < PATIENCE_MS; tries++) {
			if (READ_ONCE(revoker->result->nr_eintr) == i)
				break;
			usleep(1000);
		}
		ASSERT_EQ(i, READ_ONCE(revoker->result->nr_eintr));
		ASSERT_TRUE(is_stuck(test, 0));
		ASSERT_TRUE(is_unreachable(test));
	}
	release(_metadata, self, variant);
	expect_done(_metadata, self, 0, -EBADFD);
}

TEST_F(vfio_pci_dmabuf_revoke_stuck_test, killed)
{
	struct revoke_test *test = &self->test;

	get_stuck(_metadata, self, variant);
	ASSERT_EQ(0, kill(test->revokers[0].client.pid, SIGKILL));
	ASSERT_EQ(-SIGKILL, client_finish(&test->revokers[0].client));
	ASSERT_TRUE(is_unreachable(test));
	ASSERT_TRUE(mmap_target_try_touch(&test->other));

	revoke_start(test, 0);
	ASSERT_TRUE(is_stuck(test, 0));
	release(_metadata, self, variant);
	expect_done(_metadata, self, 0, -EBADFD);
}

/* Nobody waits for it any more when it is over, so the next one need not wait. */
TEST_F(vfio_pci_dmabuf_revoke_stuck_test, killed_and_released)
{
	struct revoke_test *test = &self->test;

	get_stuck(_metadata, self, variant);
	ASSERT_EQ(0, kill(test->revokers[0].client.pid, SIGKILL));
	ASSERT_EQ(-SIGKILL, client_finish(&test->revokers[0].client));
	release(_metadata, self, variant);
	revoke_start(test, 0);
	expect_done(_metadata, self, 0, -EBADFD);
}

/* Neither of them is told that it is done before it is. */
TEST_F(vfio_pci_dmabuf_revoke_stuck_test, two_revokers)
{
	struct revoke_test *test = &self->test;

	get_stuck(_metadata, self, variant);
	revoke_start(test, 1);
	ASSERT_TRUE(is_stuck(test, 1));
	ASSERT_TRUE(is_stuck(test, 0));
	release(_metadata, self, variant);
	expect_done(_metadata, self, 0, 0);
	expect_done(_metadata, self, 1, -EBADFD);
}

/* Of two who begin at the same time one has done it, whichever that is. */
TEST_F(vfio_pci_dmabuf_revoke_stuck_test, two_at_once)
{
	struct revoke_test *test = &self->test;
	int ret[2], i;

	ASSERT_EQ(0, attach(test, variant->unmap));
	ASSERT_EQ(0, importer_map(test->importer));
	if (variant->hold)
		ASSERT_EQ(0, variant->hold(test->importer));
	for (i = 0; i < 2; i++)
		revoke_start(test, i);
	for (i = 0; i < 2; i++)
		ASSERT_TRUE(is_stuck(test, i));
	ASSERT_TRUE(is_unreachable(test));

	release(_metadata, self, variant);
	for (i = 0; i < 2; i++) {
		ret[i] = revoke_finish(test, i);
		ASSERT_TRUE(test->revokers[i].result->released);
	}
	ASSERT_TRUE((!ret[0] && ret[1] == -EBADFD) || (ret[0] == -EBADFD && !ret[1]))
		TH_LOG("%d %d", ret[0], ret[1]);
	ASSERT_EQ(0, importer_mapped(test->importer));
}

/* An importer that goes away takes with it whatever it was that kept them waiting. */
TEST_F(vfio_pci_dmabuf_revoke_stuck_test, importer_closed)
{
	struct revoke_test *test = &self->test;

	get_stuck(_metadata, self, variant);
	WRITE_ONCE(*test->released, true);
	importer_close(test->importer);
	test->importer = importer_open();
	ASSERT_EQ(0, revoke_finish(test, 0));
	ASSERT_TRUE(test->revokers[0].result->released);
}

/* Whoever has nothing to do with it */
static long nr_sleeps(void)
{
	struct rusage usage;

	VFIO_ASSERT_EQ(getrusage(RUSAGE_THREAD, &usage), 0);
	return usage.ru_nvcsw;
}

static int bystander_main(int sock, void *arg)
{
	const size_t page_size = getpagesize();
	struct revoke_test *test = arg;
	struct mmap_target bar, mine;
	void *bar_vaddr, *vaddr;
	long sleeps;
	int round;

	test->device->fd = recv_fd(sock);
	test->other.fd = recv_fd(sock);
	VFIO_ASSERT_NULL(mmap_target_open(&bar, test->device, test->target.bar, false));

	/* Once for all that is not there yet, and then while a revoke is waiting. */
	for (round = 0; round < 2; round++) {
		bar_vaddr = mmap_target_map(&bar, 0, page_size);
		vaddr = mmap_target_map(&test->other, 0, page_size);
		mine = test->other;
		client_sync(sock);

		sleeps = nr_sleeps();
		VFIO_ASSERT_EQ(mmio_count_faults(bar_vaddr, 1, 1), 1);
		VFIO_ASSERT_EQ(mmio_count_faults(vaddr, 1, 1), 1);
		VFIO_ASSERT_TRUE(mmap_target_try_touch(&bar));
		VFIO_ASSERT_TRUE(mmap_target_try_touch(&test->other));
		mine.fd = export(test);
		VFIO_ASSERT_TRUE(mmap_target_try_touch(&mine));
		VFIO_ASSERT_EQ(__vfio_pci_dmabuf_revoke(test->device, mine.fd), 0);
		VFIO_ASSERT_FALSE(mmap_target_try_touch(&mine));
		VFIO_ASSERT_EQ(__vfio_pci_dmabuf_revoke(test->device, mine.fd), -EBADFD);
		sleeps = nr_sleeps() - sleeps;

		/* It has not waited for anything, so neither for that. */
		if (round)
			VFIO_ASSERT_EQ(sleeps, 0);
		VFIO_ASSERT_EQ(close(mine.fd), 0);
		VFIO_ASSERT_EQ(munmap(bar_vaddr, page_size), 0);
		VFIO_ASSERT_EQ(munmap(vaddr, page_size), 0);
	}
	return 0;
}

TEST_F(vfio_pci_dmabuf_revoke_stuck_test, bystander)
{
	struct revoke_test *test = &self->test;
	struct client *client = &test->bystander;

	*client = client_start(bystander_main, test);
	send_fd(client->sock, test->device->fd);
	send_fd(client->sock, test->other.fd);
	client_sync(client->sock);

	get_stuck(_metadata, self, variant);
	client_sync(client->sock);
	ASSERT_EQ(0, client_finish(client));
	ASSERT_TRUE(waits(test, 0));

	/* The same with importers of another DMABUF */
	ASSERT_EQ(0, importer_attach(test->second_importer, test->other.fd, importer_bdf,
				     VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, 0));
	ASSERT_EQ(0, importer_map(test->second_importer));
	revoke_start_fd(test, 1, test->other.fd);
	ASSERT_EQ(0, revoke_finish(test, 1));
	ASSERT_FALSE(test->revokers[1].result->released);
	ASSERT_EQ(0, importer_mapped(test->second_importer));

	ASSERT_TRUE(is_stuck(test, 0));
	release(_metadata, self, variant);
	expect_done(_metadata, self, 0, 0);
}

static int do_call(int sock, void *arg)
{
	struct revoke_test *test = arg;

	test->device->fd = recv_fd(sock);
	client_sync(sock);
	test->call(test->device);
	VFIO_ASSERT_TRUE(READ_ONCE(*test->released), "It did not wait\n");
	return 0;
}

/* Let another process do something with the device. */
static void call_start(struct revoke_test *test, void (*call)(struct vfio_pci_device *))
{
	test->call = call;
	test->caller = client_start(do_call, test);
	send_fd(test->caller.sock, test->device->fd);
	client_sync(test->caller.sock);
}

/*
 * What takes all of the memory away does wait for all importers, so for this one
 * as well. A revoke that waits adds nothing to that, nor does it take part in it.
 */
TEST_F(vfio_pci_dmabuf_revoke_stuck_test, memory_disabled_meanwhile)
{
	const struct vfio_pci_memory_event *decode = &vfio_pci_memory_decode;
	struct revoke_test *test = &self->test;

	get_stuck(_metadata, self, variant);
	call_start(test, decode->disable);
	ASSERT_FALSE(client_done(&test->caller, CHANCE_MS));
	ASSERT_TRUE(is_stuck(test, 0));

	release(_metadata, self, variant);
	expect_done(_metadata, self, 0, 0);
	ASSERT_EQ(0, client_finish(&test->caller));
	ASSERT_FALSE(mmap_target_try_touch(&test->other));
	decode->enable(test->device);
	ASSERT_TRUE(mmap_target_try_touch(&test->other));
	ASSERT_TRUE(is_unreachable(test));
}

/* The other way round: it is under way when the DMABUF, and another, is revoked. */
TEST_F(vfio_pci_dmabuf_revoke_stuck_test, while_memory_is_being_disabled)
{
	const struct vfio_pci_memory_event *decode = &vfio_pci_memory_decode;
	struct revoke_test *test = &self->test;

	ASSERT_EQ(0, attach(test, variant->unmap));
	ASSERT_EQ(0, importer_map(test->importer));
	if (variant->hold)
		ASSERT_EQ(0, variant->hold(test->importer));
	call_start(test, decode->disable);
	if (!variant->untold)
		ASSERT_TRUE(told(test->importer, 1));
	ASSERT_FALSE(client_done(&test->caller, CHANCE_MS));

	ASSERT_EQ(0, revoke_fd(test, test->other.fd));
	ASSERT_FALSE(test->revokers[0].result->released);
	revoke_start(test, 0);
	ASSERT_TRUE(is_stuck(test, 0));
	ASSERT_TRUE(is_unreachable(test));
	/* A signal ends this wait as any other. */
	ASSERT_EQ(0, kill(test->revokers[0].client.pid, SIGKILL));
	ASSERT_EQ(-SIGKILL, client_finish(&test->revokers[0].client));

	release(_metadata, self, variant);
	ASSERT_EQ(0, client_finish(&test->caller));
	decode->enable(test->device);
	ASSERT_TRUE(is_unreachable(test));
	ASSERT_EQ(-EBADFD, revoke_fd(test, test->target.fd));
	ASSERT_EQ(-ENODEV, importer_map(test->importer));
}

/* Neither importers that have it mapped, nor fences of those that have not */
TEST_F(vfio_pci_dmabuf_revoke_importer_test, late_while_stuck)
{
	struct revoke_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_IOCTL));
	ASSERT_EQ(0, importer_attach(test->second_importer, test->target.fd, importer_bdf,
				     VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, 0));
	ASSERT_EQ(0, importer_map(test->importer));
	revoke_start(test, 0);
	ASSERT_TRUE(told(test->importer, 1));
	ASSERT_TRUE(is_stuck(test, 0));

	ASSERT_EQ(-ENODEV, importer_map(test->second_importer));
	ASSERT_EQ(0, importer_detach(test->second_importer));
	ASSERT_EQ(-ENODEV, importer_attach(test->second_importer, test->target.fd, importer_bdf,
					   0, 0));

	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_unmap(test->importer));
	ASSERT_EQ(0, revoke_finish(test, 0));
	ASSERT_TRUE(test->revokers[0].result->released);
}

/*
 * Whoever has the fd can add fences. They say nothing about memory that nobody has
 * mapped, or not since it was last taken away.
 */
TEST_F(vfio_pci_dmabuf_revoke_importer_test, fence_without_a_mapping)
{
	const struct vfio_pci_memory_event *decode = &vfio_pci_memory_decode;
	struct revoke_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED));
	ASSERT_EQ(0, importer_add_fence(test->importer));
	ASSERT_EQ(0, revoke_fd(test, test->target.fd));

	ASSERT_EQ(0, importer_attach(test->second_importer, test->other.fd, importer_bdf,
				     VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, 0));
	ASSERT_EQ(0, importer_map(test->second_importer));
	decode->disable(test->device);
	ASSERT_EQ(0, importer_mapped(test->second_importer));
	ASSERT_EQ(0, importer_add_fence(test->second_importer));
	decode->enable(test->device);
	ASSERT_EQ(0, revoke_fd(test, test->other.fd));
}

/*
 * A fence may not tell when its work is done, as that of a GPU that hangs. That is
 * no reason not to wait for the unmapping, nor to say that all is over.
 */
TEST_F(vfio_pci_dmabuf_revoke_importer_test, fence_that_fails)
{
	const struct vfio_pci_memory_event *decode = &vfio_pci_memory_decode;
	struct revoke_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_IOCTL));
	ASSERT_EQ(0, importer_map(test->importer));
	ASSERT_EQ(0, importer_add_failing_fence(test->importer));

	call_start(test, decode->disable);
	ASSERT_TRUE(told(test->importer, 1));
	ASSERT_FALSE(client_done(&test->caller, CHANCE_MS));
	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_unmap(test->importer));
	ASSERT_EQ(0, client_finish(&test->caller));
	decode->enable(test->device);

	WRITE_ONCE(*test->released, false);
	ASSERT_EQ(0, importer_map(test->importer));
	revoke_start(test, 0);
	ASSERT_TRUE(told(test->importer, 2));
	ASSERT_TRUE(is_stuck(test, 0));
	ASSERT_TRUE(is_unreachable(test));
	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_unmap(test->importer));
	ASSERT_EQ(-EDEADLK, revoke_finish(test, 0));
	ASSERT_TRUE(test->revokers[0].result->released);

	ASSERT_EQ(-EDEADLK, revoke_fd(test, test->target.fd));
	ASSERT_EQ(0, importer_signal_fence(test->importer));
	ASSERT_EQ(-EBADFD, revoke_fd(test, test->target.fd));
	ASSERT_TRUE(is_unreachable(test));
}

/* Taken away for a while, and then for good: there is nobody left to wait for. */
TEST_F(vfio_pci_dmabuf_revoke_importer_test, while_disabled)
{
	const struct vfio_pci_memory_event *decode = &vfio_pci_memory_decode;
	struct revoke_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED));
	ASSERT_EQ(0, importer_map(test->importer));
	decode->disable(test->device);
	ASSERT_EQ(0, importer_mapped(test->importer));
	ASSERT_EQ(0, importer_lock(test->importer));
	ASSERT_EQ(0, revoke_fd(test, test->target.fd));
	ASSERT_EQ(0, importer_unlock(test->importer));

	decode->enable(test->device);
	ASSERT_EQ(-ENODEV, importer_map(test->importer));
	ASSERT_TRUE(is_unreachable(test));
	ASSERT_EQ(1, importer_nr_invalidated(test->importer));
}

/* All of those that have it mapped are waited for. */
TEST_F(vfio_pci_dmabuf_revoke_importer_test, two_importers)
{
	struct revoke_test *test = &self->test;
	int i;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_IOCTL));
	ASSERT_EQ(0, importer_attach(test->second_importer, test->target.fd, importer_bdf,
				     VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, 0));
	ASSERT_EQ(0, importer_map(test->importer));
	ASSERT_EQ(0, importer_map(test->second_importer));

	revoke_start(test, 0);
	ASSERT_TRUE(told(test->importer, 1));
	ASSERT_TRUE(told(test->second_importer, 1));
	for (i = 0; i < PATIENCE_MS && importer_mapped(test->second_importer); i++)
		usleep(1000);
	ASSERT_EQ(0, importer_mapped(test->second_importer));
	ASSERT_TRUE(is_stuck(test, 0));

	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_unmap(test->importer));
	ASSERT_EQ(0, revoke_finish(test, 0));
	ASSERT_TRUE(test->revokers[0].result->released);
}

static void close_fd(struct vfio_pci_device *device)
{
	VFIO_ASSERT_EQ(close(device->fd), 0);
}

/* It was told that it has to, and the last close still has to wait for it. */
TEST_F(vfio_pci_dmabuf_revoke_importer_test, closed_after_killed)
{
	struct revoke_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_IOCTL));
	ASSERT_EQ(0, importer_map(test->importer));
	revoke_start(test, 0);
	ASSERT_TRUE(told(test->importer, 1));
	ASSERT_TRUE(is_stuck(test, 0));
	ASSERT_EQ(0, kill(test->revokers[0].client.pid, SIGKILL));
	ASSERT_EQ(-SIGKILL, client_finish(&test->revokers[0].client));

	test->call = close_fd;
	test->caller = client_start(do_call, test);
	send_fd(test->caller.sock, test->device->fd);
	vfio_pci_device_close(test->device);
	client_sync(test->caller.sock);
	ASSERT_FALSE(client_done(&test->caller, CHANCE_MS));

	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_unmap(test->importer));
	ASSERT_EQ(0, client_finish(&test->caller));
	test->device = vfio_pci_device_open(device_bdf, MODE_IOMMUFD);
	ASSERT_EQ(-ENODEV, revoke_fd(test, test->target.fd));
}

int main(int argc, char *argv[])
{
	char **bdfs;
	int nr_bdfs;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	device_bdf = bdfs[0];
	importer_bdf = bdfs[nr_bdfs > 1 ? 1 : 0];
	return test_harness_run(argc, argv);
}
