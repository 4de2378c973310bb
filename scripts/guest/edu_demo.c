// SPDX-License-Identifier: GPL-2.0-only
/*
 * A PCI device driven from userspace, step by step: registers through a mapped
 * BAR, an interrupt through an eventfd, DMA through the IOMMU.
 *
 * The device is QEMU's "edu". Its registers are used here by hand. MSI and DMA
 * take some more programming, which libvfio's driver for it already does.
 */
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/io.h>
#include <linux/sizes.h>

#include <libvfio.h>

#define EDU_VENDOR_ID		0x1234
#define EDU_DEVICE_ID		0x11e8

#define EDU_ID			0x00	/* Who are you? */
#define EDU_ID_VALUE		0x010000edu
#define EDU_LIVENESS		0x04	/* Reads as the inverse of what was written */
#define EDU_FACTORIAL		0x08	/* Write n, wait, read n! */
#define EDU_STATUS		0x20
#define EDU_STATUS_COMPUTING	0x01

#define DMA_SIZE		2048	/* EDU has 4 KiB, of which QEMU 7.2 allows half */
#define WAIT_MS			5000

static void show_identity(struct vfio_pci_device *device)
{
	u32 id = readl(device->bars[0].vaddr + EDU_ID);

	ksft_test_result(id == EDU_ID_VALUE, "identity: register 0x00 reads 0x%08x\n", id);
}

static void show_liveness(struct vfio_pci_device *device)
{
	const u32 sent = 0x12345678;
	u32 got;

	writel(sent, device->bars[0].vaddr + EDU_LIVENESS);
	got = readl(device->bars[0].vaddr + EDU_LIVENESS);

	ksft_test_result(got == ~sent, "liveness: wrote 0x%08x, its inverse 0x%08x came back\n",
			 sent, got);
}

static void show_factorial(struct vfio_pci_device *device)
{
	void *registers = device->bars[0].vaddr;
	u32 i, result, n = 10, expected = 1;
	int ms;

	for (i = 2; i <= n; i++)
		expected *= i;

	writel(n, registers + EDU_FACTORIAL);
	for (ms = 0; ms < WAIT_MS; ms++) {
		if (!(readl(registers + EDU_STATUS) & EDU_STATUS_COMPUTING))
			break;
		usleep(1000);
	}
	result = readl(registers + EDU_FACTORIAL);

	ksft_test_result(result == expected, "factorial: the device says %u! = %u\n", n, result);
}

static void show_msi(struct vfio_pci_device *device)
{
	struct pollfd eventfd = {
		.fd = device->msi_eventfds[device->driver.msi],
		.events = POLLIN,
	};
	u64 count = 0;

	vfio_pci_driver_send_msi(device);
	if (poll(&eventfd, 1, WAIT_MS) == 1)
		VFIO_ASSERT_EQ(read(eventfd.fd, &count, sizeof(count)), sizeof(count));

	ksft_test_result(count == 1,
			 "interrupt: MSI came %lu time(s) through the eventfd\n", count);
}

static void show_dma(struct vfio_pci_device *device, struct dma_region *region)
{
	u8 *src = region->vaddr, *dst = region->vaddr + region->size / 2;
	iova_t src_iova = to_iova(device, src);
	iova_t dst_iova = to_iova(device, dst);
	int i, ret;

	for (i = 0; i < DMA_SIZE; i++) {
		src[i] = i * 7 + i / 256;
		dst[i] = ~src[i];
	}
	ret = vfio_pci_driver_memcpy(device, src_iova, dst_iova, DMA_SIZE);

	ksft_test_result(!ret && !memcmp(src, dst, DMA_SIZE),
			 "dma: %u bytes went from IOVA 0x%lx into the device and back to IOVA 0x%lx\n",
			 DMA_SIZE, src_iova, dst_iova);
}

static void region_setup(struct iommu *iommu, struct iova_allocator *allocator,
			 struct dma_region *region, size_t size)
{
	region->size = size;
	region->vaddr = mmap(NULL, size, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(region->vaddr, MAP_FAILED);
	region->iova = iova_allocator_alloc(allocator, size);
	iommu_map(iommu, region);
}

static void region_teardown(struct iommu *iommu, struct dma_region *region)
{
	iommu_unmap(iommu, region);
	VFIO_ASSERT_EQ(munmap(region->vaddr, region->size), 0);
}

static void show_driver(struct vfio_pci_device *device, struct iommu *iommu)
{
	struct iova_allocator *allocator = iova_allocator_init(iommu);
	struct dma_region buffer;

	region_setup(iommu, allocator, &device->driver.region, SZ_2M);
	region_setup(iommu, allocator, &buffer, SZ_8K);
	vfio_pci_driver_init(device);

	show_msi(device);
	show_dma(device, &buffer);

	vfio_pci_driver_remove(device);
	region_teardown(iommu, &buffer);
	region_teardown(iommu, &device->driver.region);
	iova_allocator_cleanup(allocator);
}

int main(int argc, char *argv[])
{
	const char *bdf = vfio_selftests_get_bdf(&argc, argv);
	struct vfio_pci_device *device;
	struct iommu *iommu;

	iommu = iommu_init(default_iommu_mode);
	device = vfio_pci_device_init(bdf, iommu);
	if (!vfio_pci_device_match(device, EDU_VENDOR_ID, EDU_DEVICE_ID))
		ksft_exit_skip("%s is not an EDU device\n", bdf);
	vfio_pci_cmd_set(device, PCI_COMMAND_MEMORY);

	ksft_print_header();
	ksft_set_plan(5);
	ksft_print_msg("%s, bound to vfio-pci, opened through %s\n", bdf, iommu->mode->name);

	show_identity(device);
	show_liveness(device);
	show_factorial(device);
	if (device->driver.ops) {
		show_driver(device, iommu);
	} else {
		ksft_test_result_skip("interrupt: libvfio has no driver for EDU\n");
		ksft_test_result_skip("dma: libvfio has no driver for EDU\n");
	}

	vfio_pci_device_cleanup(device);
	iommu_cleanup(iommu);
	ksft_finished();
}
