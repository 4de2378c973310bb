// SPDX-License-Identifier: GPL-2.0-only
/*
 * A process that was handed a DMABUF can keep it, and keep it busy. It cannot
 * make the owner of the device wait, or the driver, and cannot keep anything of
 * the device.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define DRIVER		"vfio-pci"
#define NR_MAPPINGS	10000

/* A machine may be slow. Nothing that is waited for here takes long. */
#define PATIENCE_MS	20000

/* Enough for what does not wait to be done, and to be seen to be so */
#define CHANCE_MS	200

static const char *device_bdf;

#define fixture_data		FIXTURE_DATA(vfio_pci_dmabuf_client_test)

FIXTURE(vfio_pci_dmabuf_client_test) {
	const char *iommu_mode;
	struct vfio_pci_device *device;
	struct client client;
	int bar;
	size_t page_size;

	/* A process that unbinds the driver, and what keeps it waiting */
	pid_t unbind;
	void *vaddr;
};

FIXTURE_VARIANT(vfio_pci_dmabuf_client_test) {
	const char *iommu_mode;
};

/* A group and a character device are opened in different ways. */
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_client_test, group) { MODE_VFIO_TYPE1V2_IOMMU };
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_client_test, iommufd) { MODE_IOMMUFD };

static void device_open(fixture_data *self)
{
	self->device = vfio_pci_device_open(device_bdf, self->iommu_mode);
}

static void device_close(fixture_data *self)
{
	vfio_pci_device_close(self->device);
	self->device = NULL;
}

/* Let a process unbind the driver. */
static void unbind_start(fixture_data *self)
{
	fflush(NULL);
	self->unbind = fork();
	VFIO_ASSERT_GE(self->unbind, 0);
	if (!self->unbind) {
		/* Nothing that it has inherited may be what it waits for. */
		VFIO_ASSERT_EQ(syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0), 0);
		sysfs_driver_unbind(DRIVER, device_bdf);
		_exit(0);
	}
}

/* Whether it has ended, or does so within the time */
static bool unbind_done(fixture_data *self, int timeout_ms)
{
	int pidfd = syscall(SYS_pidfd_open, self->unbind, 0), status;
	struct pollfd pollfd = {
		.fd = pidfd,
		.events = POLLIN,
	};
	bool done;

	VFIO_ASSERT_GE(pidfd, 0);
	done = poll(&pollfd, 1, timeout_ms) == 1;
	VFIO_ASSERT_EQ(close(pidfd), 0);
	if (done) {
		VFIO_ASSERT_EQ(waitpid(self->unbind, &status, 0), self->unbind);
		VFIO_ASSERT_EQ(status, 0);
		self->unbind = 0;
	}
	return done;
}

/* Unbind while a client has something, and clean up also if that hangs. */
static bool unbind_and_bind(fixture_data *self)
{
	bool done;

	unbind_start(self);
	done = unbind_done(self, PATIENCE_MS);
	if (!done) {
		client_kill(&self->client);
		VFIO_ASSERT_TRUE(unbind_done(self, PATIENCE_MS), "Unbind still hangs\n");
	}
	sysfs_driver_bind(DRIVER, device_bdf);
	return done;
}

/* Open the device, and find a BAR for the client. Returns why there is none, or NULL. */
static const char *client_test_setup(fixture_data *self, const char *iommu_mode)
{
	struct mmap_target target;
	const char *reason;

	self->page_size = getpagesize();
	self->iommu_mode = iommu_mode;
	sysfs_driver_restore(DRIVER, device_bdf);
	device_open(self);
	reason = mmap_target_open_largest(&target, self->device, true);
	if (reason)
		return reason;

	self->bar = target.bar;
	mmap_target_close(&target);
	return NULL;
}

static void client_test_teardown(fixture_data *self)
{
	if (self->device)
		device_close(self);
	/* The test has failed in the middle of an unbind. */
	if (self->vaddr)
		VFIO_ASSERT_EQ(munmap(self->vaddr, self->page_size), 0);
	if (self->unbind)
		unbind_done(self, PATIENCE_MS);
	sysfs_driver_restore(DRIVER, device_bdf);
}

FIXTURE_SETUP(vfio_pci_dmabuf_client_test)
{
	const char *reason = client_test_setup(self, variant->iommu_mode);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_client_test)
{
	client_test_teardown(self);
}

/* Reset the device and switch its memory off and on. */
static void use_memory_state(fixture_data *self)
{
	static const struct vfio_pci_memory_event *events[] = {
		&vfio_pci_memory_decode, &vfio_pci_function_reset, &vfio_pci_hot_reset,
		&vfio_pci_d3hot, &vfio_pci_low_power, &vfio_pci_flr,
		&vfio_pci_external_reset,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(events); i++) {
		if (events[i]->unsupported(self->device))
			continue;
		events[i]->disable(self->device);
		if (events[i]->enable)
			events[i]->enable(self->device);
	}
}

/* Keep an O_PATH handle of what comes, and not the file itself. */
static int keep_path(int sock, void *arg)
{
	char path[64];
	int fd, handle;

	fd = recv_fd(sock);
	snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", fd);
	handle = open(path, O_PATH);
	VFIO_ASSERT_GE(handle, 0);
	VFIO_ASSERT_EQ(close(fd), 0);

	/* The file is gone now. */
	client_sync(sock);
	client_sync(sock);
	VFIO_ASSERT_EQ(close(handle), 0);
	return 0;
}

TEST_F(vfio_pci_dmabuf_client_test, path_handle_and_reset)
{
	int i, fd, again;

	self->client = client_start(keep_path, NULL);
	fd = vfio_pci_dmabuf_export_range(self->device, self->bar, 0, self->page_size);
	send_fd(self->client.sock, fd);
	ASSERT_EQ(0, close(fd));
	client_sync(self->client.sock);

	for (i = 0; i < 3; i++) {
		use_memory_state(self);
		/* Memory that was freed may be this one now. */
		again = vfio_pci_dmabuf_export_range(self->device, self->bar, 0, self->page_size);
		ASSERT_EQ(0, close(again));
	}
	device_close(self);
	device_open(self);
	use_memory_state(self);

	client_sync(self->client.sock);
	ASSERT_EQ(0, client_wait(&self->client));
	use_memory_state(self);
}

TEST_F(vfio_pci_dmabuf_client_test, path_handle_and_unbind)
{
	int fd;

	self->client = client_start_unprivileged(keep_path, NULL);
	fd = vfio_pci_dmabuf_export_range(self->device, self->bar, 0, self->page_size);
	send_fd(self->client.sock, fd);
	ASSERT_EQ(0, close(fd));
	client_sync(self->client.sock);

	device_close(self);
	ASSERT_TRUE(unbind_and_bind(self));
	client_sync(self->client.sock);
	ASSERT_EQ(0, client_wait(&self->client));
	device_open(self);
}

/* Keep all that there is: the fd, a path handle, a mapping. */
static int keep_all(int sock, void *arg)
{
	const size_t page_size = getpagesize();
	void *vaddr, *again;
	char path[64];
	int fd;

	fd = recv_fd(sock);
	snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", fd);
	VFIO_ASSERT_GE(open(path, O_PATH), 0);
	vaddr = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	VFIO_ASSERT_TRUE(mmio_try_touch(vaddr));
	client_sync(sock);

	/* The driver is gone, and then it is there again. */
	client_sync(sock);
	VFIO_ASSERT_FALSE(mmio_try_touch(vaddr));
	again = mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, 0);
	VFIO_ASSERT_EQ(again, MAP_FAILED);
	VFIO_ASSERT_EQ(errno, ENODEV);
	VFIO_ASSERT_EQ(close(fd), 0);
	VFIO_ASSERT_FALSE(mmio_try_touch(vaddr));
	VFIO_ASSERT_EQ(munmap(vaddr, page_size), 0);
	return 0;
}

TEST_F(vfio_pci_dmabuf_client_test, everything_and_unbind)
{
	int fd;

	self->client = client_start_unprivileged(keep_all, NULL);
	fd = vfio_pci_dmabuf_export_range(self->device, self->bar, 0, self->page_size);
	send_fd(self->client.sock, fd);
	ASSERT_EQ(0, close(fd));
	client_sync(self->client.sock);

	device_close(self);
	ASSERT_TRUE(unbind_and_bind(self));
	device_open(self);
	client_sync(self->client.sock);
	ASSERT_EQ(0, client_wait(&self->client));
}

/* Unbind asks the owner, waits for the owner, and takes nothing before. */
TEST_F(vfio_pci_dmabuf_client_test, unbind_waits_for_the_owner)
{
	char buffer[sizeof(struct vfio_irq_set) + sizeof(int)] = {};
	struct vfio_irq_set *irq = (void *)buffer;
	int fd, request = eventfd(0, EFD_CLOEXEC);
	void *dmabuf;
	u64 count;

	irq->argsz = sizeof(buffer);
	irq->flags = VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_EVENTFD;
	irq->index = VFIO_PCI_REQ_IRQ_INDEX;
	irq->count = 1;
	memcpy(irq->data, &request, sizeof(request));
	ioctl_assert(self->device->fd, VFIO_DEVICE_SET_IRQS, irq);

	/* Before the mappings, which it would inherit */
	fd = vfio_pci_dmabuf_export_range(self->device, self->bar, 0, self->page_size);
	unbind_start(self);
	ASSERT_EQ(sizeof(count), read(request, &count, sizeof(count)));

	self->vaddr = mmap(NULL, self->page_size, PROT_READ, MAP_SHARED, self->device->fd,
			   self->device->bars[self->bar].info.offset);
	ASSERT_NE(MAP_FAILED, self->vaddr);
	dmabuf = mmap(NULL, self->page_size, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, dmabuf);
	ASSERT_TRUE(mmio_try_touch(self->vaddr));
	ASSERT_TRUE(mmio_try_touch(dmabuf));
	ASSERT_FALSE(unbind_done(self, CHANCE_MS));

	/* The mapping of the BAR is the owner's as well. */
	device_close(self);
	ASSERT_TRUE(mmio_try_touch(self->vaddr));
	ASSERT_TRUE(mmio_try_touch(dmabuf));
	ASSERT_FALSE(unbind_done(self, CHANCE_MS));

	ASSERT_EQ(0, munmap(self->vaddr, self->page_size));
	self->vaddr = NULL;
	ASSERT_FALSE(mmio_try_touch(dmabuf));
	ASSERT_TRUE(unbind_done(self, PATIENCE_MS));
	ASSERT_FALSE(mmio_try_touch(dmabuf));

	sysfs_driver_bind(DRIVER, device_bdf);
	ASSERT_EQ(0, munmap(dmabuf, self->page_size));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(request));
	device_open(self);
}

/* Stop in the middle of it, with a mapping in use. */
static int stopped(int sock, void *arg)
{
	const size_t page_size = getpagesize();
	int fd = recv_fd(sock);
	void *vaddr;

	vaddr = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	VFIO_ASSERT_TRUE(mmio_try_touch(vaddr));
	VFIO_ASSERT_EQ(raise(SIGSTOP), 0);
	VFIO_ASSERT_FALSE(mmio_try_touch(vaddr));
	return 0;
}

TEST_F(vfio_pci_dmabuf_client_test, stopped)
{
	int fd, status;

	self->client = client_start(stopped, NULL);
	fd = vfio_pci_dmabuf_export_range(self->device, self->bar, 0, self->page_size);
	send_fd(self->client.sock, fd);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(self->client.pid, waitpid(self->client.pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status));

	use_memory_state(self);
	device_close(self);
	ASSERT_TRUE(unbind_and_bind(self));

	ASSERT_EQ(0, kill(self->client.pid, SIGCONT));
	ASSERT_EQ(0, client_wait(&self->client));
	device_open(self);
}

/* No two of them are one VMA, since neighbours are not so in the DMABUF. */
static int many_mappings(int sock, void *arg)
{
	const size_t page_size = getpagesize();
	int fd = recv_fd(sock), i;
	void *vaddr, *page;

	vaddr = mmap_reserve(NR_MAPPINGS * page_size, page_size, 0);
	for (i = 0; i < NR_MAPPINGS; i++) {
		page = mmap(vaddr + i * page_size, page_size, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_FIXED, fd, 0);
		VFIO_ASSERT_NE(page, MAP_FAILED, "mapping %d\n", i);
		VFIO_ASSERT_TRUE(mmio_try_touch(page));
	}
	client_sync(sock);

	/* The memory is disabled. */
	client_sync(sock);
	for (i = 0; i < NR_MAPPINGS; i++)
		VFIO_ASSERT_FALSE(mmio_try_touch(vaddr + i * page_size), "mapping %d\n", i);
	client_sync(sock);

	/* The memory is enabled. */
	client_sync(sock);
	for (i = 0; i < NR_MAPPINGS; i++)
		VFIO_ASSERT_TRUE(mmio_try_touch(vaddr + i * page_size), "mapping %d\n", i);
	client_sync(sock);

	/* The device is closed. */
	client_sync(sock);
	for (i = 0; i < NR_MAPPINGS; i++)
		VFIO_ASSERT_FALSE(mmio_try_touch(vaddr + i * page_size), "mapping %d\n", i);
	return 0;
}

/* This takes long, and needs no second way to open the device. */
FIXTURE(vfio_pci_dmabuf_many_mappings_test) {
	fixture_data test;
};

FIXTURE_SETUP(vfio_pci_dmabuf_many_mappings_test)
{
	const char *reason = client_test_setup(&self->test, default_iommu_mode);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_many_mappings_test)
{
	client_test_teardown(&self->test);
}

TEST_F(vfio_pci_dmabuf_many_mappings_test, zapped)
{
	fixture_data *test = &self->test;
	int fd;

	test->client = client_start(many_mappings, NULL);
	fd = vfio_pci_dmabuf_export_range(test->device, test->bar, 0, test->page_size);
	send_fd(test->client.sock, fd);
	ASSERT_EQ(0, close(fd));
	client_sync(test->client.sock);

	vfio_pci_memory_decode.disable(test->device);
	client_sync(test->client.sock);
	client_sync(test->client.sock);
	vfio_pci_memory_decode.enable(test->device);
	client_sync(test->client.sock);
	client_sync(test->client.sock);
	device_close(test);
	client_sync(test->client.sock);
	ASSERT_EQ(0, client_wait(&test->client));
	device_open(test);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
