// SPDX-License-Identifier: GPL-2.0-only
/*
 * What mappings of BARs do where there is little else: no libvfio, no module, no
 * IOMMU, and with nolibc no libc either. That is why it runs on a 32-bit kernel,
 * where it is init as well.
 *
 * usage: bar_mmap [BDF/BAR...]
 *
 * Without an argument it takes each BAR that can be mapped of the device
 * $VFIO_SELFTESTS_BDF. With arguments each BAR named must be there.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/mman.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#ifdef NOLIBC
#include <sys/mount.h>
#include <sys/reboot.h>
#endif

#include "kselftest.h"

#define MAX_BARS	16
/* As much as fits into the address space of a 32-bit process many times */
#define MAX_MAP		(16U << 20)

struct bar {
	char bdf[16];
	unsigned int index;
	uint64_t size;
	/* Where 32 bits can be written, and what of them comes back inverted */
	unsigned int scratch;
	uint32_t invert;
	/* All of it can be written, and survives a reset. */
	bool ram;
	/* Without scratch memory it can only be read. */
	bool rw;
};

struct device {
	int container;
	int group;
	int fd;
	uint64_t bar;
	uint64_t config;
};

static struct bar bars[MAX_BARS];
static unsigned int nr_bars;
static size_t page_size;

#ifdef NOLIBC
/* A 32-bit system call takes the offset in two registers. */
static ssize_t pread(int fd, void *buf, size_t size, off_t offset)
{
#ifdef __i386__
	return syscall(__NR_pread64, fd, buf, size, (uint32_t)offset, (uint32_t)(offset >> 32));
#else
	return syscall(__NR_pread64, fd, buf, size, offset);
#endif
}

static ssize_t pwrite(int fd, const void *buf, size_t size, off_t offset)
{
#ifdef __i386__
	return syscall(__NR_pwrite64, fd, buf, size, (uint32_t)offset, (uint32_t)(offset >> 32));
#else
	return syscall(__NR_pwrite64, fd, buf, size, offset);
#endif
}
#endif

/* Each test is a process: a check that fails ends it. */
#define CHECK(_condition) do {							\
	if (!(_condition)) {							\
		ksft_print_msg("line %d: %s (errno %d)\n", __LINE__,		\
			       #_condition, errno);				\
		exit(KSFT_FAIL);						\
	}									\
} while (0)

static void device_region(const struct device *device, struct vfio_region_info *info,
			  unsigned int index)
{
	memset(info, 0, sizeof(*info));
	info->argsz = sizeof(*info);
	info->index = index;
	CHECK(!ioctl(device->fd, VFIO_DEVICE_GET_REGION_INFO, info));
}

static void device_command(const struct device *device, uint16_t set, uint16_t clear)
{
	uint16_t command;

	CHECK(pread(device->fd, &command, 2, device->config + PCI_COMMAND) == 2);
	command = (command & ~clear) | set;
	CHECK(pwrite(device->fd, &command, 2, device->config + PCI_COMMAND) == 2);
}

static struct device device_open(const struct bar *bar)
{
	struct vfio_region_info info;
	struct device device;
	char path[128], link[128];
	bool noiommu = false;
	ssize_t length;
	char *number;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", bar->bdf);
	length = readlink(path, link, sizeof(link) - 1);
	CHECK(length > 0);
	link[length] = '\0';
	number = strrchr(link, '/') + 1;

	snprintf(path, sizeof(path), "/dev/vfio/%s", number);
	device.group = open(path, O_RDWR);
	if (device.group < 0) {
		noiommu = true;
		snprintf(path, sizeof(path), "/dev/vfio/noiommu-%s", number);
		device.group = open(path, O_RDWR);
	}
	CHECK(device.group >= 0);

	device.container = open("/dev/vfio/vfio", O_RDWR);
	CHECK(device.container >= 0);
	CHECK(!ioctl(device.group, VFIO_GROUP_SET_CONTAINER, &device.container));
	CHECK(!ioctl(device.container, VFIO_SET_IOMMU,
		     noiommu ? VFIO_NOIOMMU_IOMMU : VFIO_TYPE1v2_IOMMU));
	device.fd = ioctl(device.group, VFIO_GROUP_GET_DEVICE_FD, bar->bdf);
	CHECK(device.fd >= 0);

	device_region(&device, &info, VFIO_PCI_CONFIG_REGION_INDEX);
	device.config = info.offset;
	device_region(&device, &info, bar->index);
	device.bar = info.offset;
	device_command(&device, PCI_COMMAND_MEMORY, 0);
	return device;
}

static void device_close(struct device *device)
{
	CHECK(!close(device->fd));
	CHECK(!close(device->group));
	CHECK(!close(device->container));
}

static char *map(const struct device *device, uint64_t offset, size_t size)
{
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, device->fd,
		       device->bar + offset);

	CHECK(p != MAP_FAILED);
	return p;
}

/* Of a BAR that is smaller than a page, a page is what can be mapped. */
static size_t map_size(const struct bar *bar)
{
	if (bar->size > MAX_MAP)
		return MAX_MAP;
	return bar->size < page_size ? page_size : bar->size;
}

static void poke(const struct bar *bar, char *p, uint32_t value)
{
	if (bar->rw)
		*(volatile uint32_t *)(p + bar->scratch) = value;
}

static uint32_t peek(const char *p)
{
	return *(const volatile uint32_t *)p;
}

static bool holds(const struct bar *bar, const char *p, uint32_t value)
{
	uint32_t got = peek(p + bar->scratch);

	return !bar->rw || (got ^ bar->invert) == value;
}

/* In a process of its own, which inherits what is in the page table here. */
static bool raises_sigbus(const char *p)
{
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		peek(p);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	return WTERMSIG(status) == SIGBUS;
}

/* What a signal would be to the process, is an error of a system call. */
static bool is_gone(const struct bar *bar, const char *p)
{
	int fds[2];
	bool efault;

	CHECK(!pipe(fds));
	efault = write(fds[1], p + bar->scratch, 4) == -1 && errno == EFAULT;
	CHECK(!close(fds[0]));
	CHECK(!close(fds[1]));
	return efault && raises_sigbus(p + bar->scratch);
}

static void memory_off(const struct device *device)
{
	device_command(device, 0, PCI_COMMAND_MEMORY);
}

static void memory_on(const struct device *device)
{
	device_command(device, PCI_COMMAND_MEMORY, 0);
}

static void test_read_write(const struct bar *bar, struct device *device)
{
	char *one = map(device, 0, map_size(bar));
	char *two = map(device, 0, page_size);

	poke(bar, one, 0x12345678);
	CHECK(holds(bar, one, 0x12345678));
	CHECK(holds(bar, two, 0x12345678));
	poke(bar, two, 0x87654321);
	CHECK(holds(bar, one, 0x87654321));
	peek(one + map_size(bar) - page_size);
}

/*
 * Write through one mapping, in which huge pages fit where the kernel has them,
 * and read through another, in which none does.
 */
static void test_every_page(const struct bar *bar, struct device *device)
{
	const size_t size = map_size(bar), huge = 4U << 20;
	char *space, *p;
	size_t i;

	space = mmap(NULL, size + huge + page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(space != MAP_FAILED);
	space = (char *)(((uintptr_t)space + huge - 1) & -huge);
	p = mmap(space, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device->fd,
		 device->bar);
	CHECK(p == space);
	for (i = 0; i < size; i += page_size)
		poke(bar, p + i, i + 1);

	p = mmap(space + page_size, size, PROT_READ, MAP_SHARED | MAP_FIXED, device->fd,
		 device->bar);
	CHECK(p == space + page_size);
	for (i = 0; i < size; i += page_size)
		CHECK(holds(bar, p + i, i + 1));

	memory_off(device);
	for (i = 0; i < size; i += size / 4)
		CHECK(is_gone(bar, p + i));
}

static void test_last_page(const struct bar *bar, struct device *device)
{
	const size_t size = map_size(bar);
	char *whole = map(device, bar->size - size, size);
	char *last = map(device, bar->size - page_size, page_size);

	peek(last);
	if (bar->ram) {
		poke(bar, whole, 0x11111111);
		poke(bar, last, 0x22222222);
		CHECK(holds(bar, whole, 0x11111111));
		CHECK(holds(bar, whole + size - page_size, 0x22222222));
	}
}

static bool refused(const struct device *device, size_t size, int flags, uint64_t offset,
		    int error)
{
	return mmap(NULL, size, PROT_READ, flags, device->fd, offset) == MAP_FAILED &&
	       errno == error;
}

static void test_refused(const struct bar *bar, struct device *device)
{
	const uint64_t end = device->bar + (bar->size < page_size ? page_size : bar->size);

	CHECK(refused(device, page_size, MAP_PRIVATE, device->bar, EINVAL));
	CHECK(refused(device, page_size, MAP_SHARED, end, EINVAL));
	CHECK(refused(device, 2 * page_size, MAP_SHARED, end - page_size, EINVAL));
}

/*
 * The region is in bits 40 and up of the offset, and mm takes no offset of a device
 * that a long cannot have: of 32 bits that leaves BAR0, with or without the series.
 */
static void test_overflow(const struct bar *bar, struct device *device)
{
	CHECK(refused(device, page_size, MAP_SHARED, device->bar, EOVERFLOW));
}

static void test_memory_off(const struct bar *bar, struct device *device)
{
	char *p = map(device, 0, map_size(bar));
	char *untouched = map(device, 0, page_size);

	poke(bar, p, 0x55555555);
	memory_off(device);
	CHECK(is_gone(bar, p));
	CHECK(is_gone(bar, p));
	CHECK(is_gone(bar, untouched));
	memory_on(device);
	CHECK(holds(bar, p, 0x55555555));
	CHECK(holds(bar, untouched, 0x55555555));
	poke(bar, p, 0x66666666);
	CHECK(holds(bar, untouched, 0x66666666));
}

static void test_reset(const struct bar *bar, struct device *device)
{
	char *p = map(device, 0, map_size(bar));

	poke(bar, p, 0x77777777);
	CHECK(!ioctl(device->fd, VFIO_DEVICE_RESET, NULL));
	if (bar->ram)
		CHECK(holds(bar, p, 0x77777777));
	poke(bar, p, 0x88888888);
	CHECK(holds(bar, p, 0x88888888));

	memory_off(device);
	CHECK(!ioctl(device->fd, VFIO_DEVICE_RESET, NULL));
	CHECK(is_gone(bar, p));
	memory_on(device);
	poke(bar, p, 0x99999999);
	CHECK(holds(bar, p, 0x99999999));
}

static void test_partial_munmap(const struct bar *bar, struct device *device)
{
	const size_t size = map_size(bar), last = size - page_size;
	char *p = map(device, 0, size);

	poke(bar, p, 0xaaaaaaaa);
	peek(p + page_size);
	peek(p + last);
	CHECK(!munmap(p + page_size, page_size));
	CHECK(holds(bar, p, 0xaaaaaaaa));
	peek(p + last);

	memory_off(device);
	CHECK(is_gone(bar, p));
	CHECK(is_gone(bar, p + last));
	memory_on(device);
	CHECK(holds(bar, p, 0xaaaaaaaa));
	CHECK(!munmap(p, page_size));
	peek(p + last);
	CHECK(!munmap(p + 2 * page_size, size - 2 * page_size));
}

static void test_mremap(const struct bar *bar, struct device *device)
{
	const size_t size = map_size(bar);
	char *from = map(device, 0, size), *to;

	to = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(to != MAP_FAILED);
	poke(bar, from, 0xbbbbbbbb);
	CHECK(mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	CHECK(holds(bar, to, 0xbbbbbbbb));
	CHECK(mremap(to, size, size + page_size, MREMAP_MAYMOVE, NULL) == MAP_FAILED);

	memory_off(device);
	CHECK(is_gone(bar, to));
	memory_on(device);
	CHECK(holds(bar, to, 0xbbbbbbbb));
	CHECK(!munmap(to, size));
}

static void sync_write(int fd)
{
	CHECK(write(fd, "", 1) == 1);
}

static void sync_read(int fd)
{
	char c;

	CHECK(read(fd, &c, 1) == 1);
}

static void test_fork(const struct bar *bar, struct device *device)
{
	char *p = map(device, 0, map_size(bar));
	int to[2], from[2], status;
	pid_t pid;

	CHECK(!pipe(to));
	CHECK(!pipe(from));
	poke(bar, p, 0xcccccccc);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		/* Or neither would see the end of the other. */
		CHECK(!close(to[1]));
		CHECK(holds(bar, p, 0xcccccccc));
		poke(bar, p, 0xdddddddd);
		sync_write(from[1]);
		sync_read(to[0]);
		CHECK(is_gone(bar, p));
		sync_write(from[1]);
		sync_read(to[0]);
		CHECK(holds(bar, p, 0xeeeeeeee));
		_exit(0);
	}
	CHECK(!close(from[1]));
	sync_read(from[0]);
	CHECK(holds(bar, p, 0xdddddddd));
	memory_off(device);
	CHECK(is_gone(bar, p));
	sync_write(to[1]);
	sync_read(from[0]);
	memory_on(device);
	poke(bar, p, 0xeeeeeeee);
	sync_write(to[1]);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(!status);
}

/* The line of /proc/self/maps that has an address, of which it is the start */
static bool maps_line(const char *p, char *line, size_t size)
{
	int fd = open("/proc/self/maps", O_RDONLY);
	size_t length = 0;
	bool found = false;
	char c;

	CHECK(fd >= 0);
	while (!found && read(fd, &c, 1) == 1) {
		if (c != '\n') {
			if (length < size - 1)
				line[length++] = c;
			continue;
		}
		line[length] = '\0';
		length = 0;
		found = strtoul(line, NULL, 16) == (uintptr_t)p;
	}
	CHECK(!close(fd));
	return found;
}

static void test_name(const struct bar *bar, struct device *device)
{
	char *p = map(device, 0, page_size);
	char line[256], name[64];

	peek(p);
	CHECK(maps_line(p, line, sizeof(line)));
	if (strstr(line, "[vfio-device]"))
		exit(KSFT_SKIP);

	ksft_print_msg("%s\n", line);
	snprintf(name, sizeof(name), "/dmabuf:vfio:%s/BAR%u", bar->bdf, bar->index);
	CHECK(strstr(line, name));
	/* The offset that mmap() was given */
	snprintf(name, sizeof(name), " rw-s %08llx ", (unsigned long long)device->bar);
	CHECK(strstr(line, name));
}

/* The device stays open for its mapping. */
static void test_close(const struct bar *bar, struct device *device)
{
	char *p = map(device, 0, map_size(bar));

	poke(bar, p, 0x0badcafe);
	device_close(device);
	CHECK(holds(bar, p, 0x0badcafe));
	poke(bar, p, 0x600dcafe);
	CHECK(holds(bar, p, 0x600dcafe));
	CHECK(!munmap(p, map_size(bar)));

	*device = device_open(bar);
	p = map(device, 0, page_size);
	poke(bar, p, 0x12121212);
	CHECK(holds(bar, p, 0x12121212));
}

static const struct {
	const char *name;
	void (*run)(const struct bar *bar, struct device *device);
	/* What the BAR must have for it */
	unsigned int pages;
	bool ram;
} tests[] = {
	{ "read and write", test_read_write },
	{ "the last page", test_last_page, 2 },
	{ "every page", test_every_page, (8U << 20) >> 12, true },
	{ "what mmap() refuses", test_refused },
	{ "memory off and on", test_memory_off },
	{ "reset", test_reset },
	{ "munmap() of a part", test_partial_munmap, 3 },
	{ "mremap()", test_mremap },
	{ "fork()", test_fork },
	{ "name in /proc/self/maps", test_name },
	{ "device closed", test_close },
	{ "offset too large for a long", test_overflow },
};

static bool applies(unsigned int test, const struct bar *bar)
{
	if (bar->index && sizeof(long) == 4)
		return tests[test].run == test_overflow;
	if (tests[test].run == test_overflow)
		return false;

	return bar->size >= (uint64_t)tests[test].pages * page_size &&
	       (bar->ram || !tests[test].ram);
}

static void run_test(unsigned int test, const struct bar *bar)
{
	struct device device;
	int status;
	pid_t pid;

	pid = fork();
	if (pid < 0)
		ksft_exit_fail_perror("fork");
	if (!pid) {
		device = device_open(bar);
		tests[test].run(bar, &device);
		exit(KSFT_PASS);
	}
	if (waitpid(pid, &status, 0) != pid)
		ksft_exit_fail_perror("waitpid");
	if (!WIFEXITED(status))
		ksft_print_msg("ended by signal %d\n", WTERMSIG(status));

	if (WIFEXITED(status) && WEXITSTATUS(status) == KSFT_SKIP)
		ksft_test_result_skip("%s BAR%u: %s: of another kernel\n", bar->bdf, bar->index,
				      tests[test].name);
	else
		ksft_test_result(!status, "%s BAR%u: %s\n", bar->bdf, bar->index,
				 tests[test].name);
}

/* Add BAR @index of device @bdf, and say whether it can be mapped. */
static bool add_bar(const char *bdf, unsigned int index)
{
	struct vfio_region_info info;
	struct device device;
	struct bar *bar;
	uint32_t id;

	CHECK(nr_bars < MAX_BARS && index <= VFIO_PCI_BAR5_REGION_INDEX);
	bar = &bars[nr_bars];
	memset(bar, 0, sizeof(*bar));
	snprintf(bar->bdf, sizeof(bar->bdf), "%s", bdf);
	bar->index = index;

	device = device_open(bar);
	CHECK(pread(device.fd, &id, 4, device.config + PCI_VENDOR_ID) == 4);
	device_region(&device, &info, index);
	device_close(&device);
	if (!(info.flags & VFIO_REGION_INFO_FLAG_MMAP))
		return false;

	bar->size = info.size;
	switch (id) {
	case 0x11e81234:	/* EDU: registers, one of them for this */
		bar->scratch = 4;
		bar->invert = -1;
		bar->rw = index == 0;
		break;
	case 0x11101af4:	/* ivshmem */
		bar->ram = index == 2;
		bar->rw = bar->ram;
		break;
	case 0x00101b36:	/* NVMe: where the admin queue is, while that is off */
		bar->scratch = 0x28;
		bar->rw = index == 0;
		break;
	case 0x11111234:	/* bochs-display */
		bar->ram = index == 0;
		bar->rw = bar->ram;
		break;
	}
	nr_bars++;
	return true;
}

/* In sysfs, each BAR is a line of its first address, its last one, and flags. */
static void print_bar(const struct bar *bar)
{
	char path[128], line[64] = "";
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%.12s/resource", bar->bdf);
	fd = open(path, O_RDONLY);
	if (fd >= 0) {
		if (pread(fd, line, 37, bar->index * 57) < 0)
			line[0] = '\0';
		close(fd);
	}
	ksft_print_msg("%s BAR%u: %s, long has %u bits\n", bar->bdf, bar->index, line,
		       8 * (unsigned int)sizeof(long));
}

static void add_bars(int argc, char *argv[])
{
	const char *bdf = getenv("VFIO_SELFTESTS_BDF");
	unsigned int index;
	char name[16];
	int i;

	for (i = 1; i < argc; i++) {
		snprintf(name, sizeof(name), "%s", argv[i]);
		CHECK(strlen(name) == 14 && name[12] == '/');
		name[12] = '\0';
		CHECK(add_bar(name, name[13] - '0'));
	}
	if (argc > 1)
		return;

	if (!bdf)
		ksft_exit_skip("VFIO_SELFTESTS_BDF does not name a device\n");
	for (index = 0; index <= VFIO_PCI_BAR5_REGION_INDEX; index++)
		add_bar(bdf, index);
}

static int run_tests(int argc, char *argv[])
{
	unsigned int plan = 0, test, i;

	page_size = getpagesize();
	ksft_print_header();
	add_bars(argc, argv);
	for (i = 0; i < nr_bars; i++) {
		for (test = 0; test < ARRAY_SIZE(tests); test++)
			plan += applies(test, &bars[i]);
	}
	ksft_set_plan(plan);
	for (i = 0; i < nr_bars; i++) {
		print_bar(&bars[i]);
		for (test = 0; test < ARRAY_SIZE(tests); test++) {
			if (applies(test, &bars[i]))
				run_test(test, &bars[i]);
		}
	}
	ksft_finished();
}

#ifdef NOLIBC
static bool sysfs_write(const char *path, const char *text)
{
	ssize_t length = strlen(text);
	int fd = open(path, O_WRONLY);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, text, length) == length;
	close(fd);
	return ok;
}

/* Give the devices to vfio-pci, run the tests, and end the machine. */
static void init(int argc, char *argv[])
{
	char bdf[16], path[128];
	pid_t pid;
	int i, fd;

	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	/* The first serial port is the kernel's. */
	fd = open("/dev/ttyS1", O_RDWR);
	if (fd >= 0) {
		dup2(fd, 1);
		dup2(fd, 2);
	}
	for (i = 1; i < argc; i++) {
		snprintf(bdf, sizeof(bdf), "%.12s", argv[i]);
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", bdf);
		if (!sysfs_write(path, "vfio-pci") ||
		    !sysfs_write("/sys/bus/pci/drivers_probe", bdf))
			ksft_print_msg("%s cannot be bound\n", bdf);
	}

	pid = fork();
	if (!pid)
		exit(run_tests(argc, argv));
	waitpid(pid, NULL, 0);
	printf("# end\n");
	fsync(1);
	close(fd);
	reboot(LINUX_REBOOT_CMD_RESTART);
}
#endif

int main(int argc, char *argv[])
{
#ifdef NOLIBC
	if (getpid() == 1)
		init(argc, argv);
#endif
	return run_tests(argc, argv);
}
