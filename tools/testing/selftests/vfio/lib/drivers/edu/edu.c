// SPDX-License-Identifier: GPL-2.0-only
/*
 * Driver for the "edu" device of QEMU, which exists to be driven by examples:
 * see docs/specs/edu.rst in QEMU. It comes with every QEMU, so this is the way
 * to run the tests that need a driver without any hardware:
 *
 *   -device pcie-root-port,id=rp -device edu,bus=rp,dma_mask=0xffffffffffffffff
 *
 * The root port gives EDU an IOMMU group of its own and a bus to reset. Without
 * the dma_mask EDU drops all but the lower 28 bits of an address.
 */
#include <errno.h>
#include <unistd.h>

#include <linux/compiler.h>
#include <linux/io.h>
#include <linux/pci_regs.h>

#include <libvfio.h>

#include "registers.h"

/*
 * QEMU up to 7.2, at least, takes a DMA that ends at the end of the buffer for
 * one that ends behind it, and then it aborts. Stay away from there.
 */
#define EDU_MAX_COPY			(EDU_BUFFER_SIZE / 2)

/*
 * A copy is two DMAs and EDU takes 100ms for each, however small. 32 copies keep
 * it busy for 6.4s without a pause, which is a storm for a device that is idle
 * most of the time, and stay far away from the timeout of memcpy_storm even on
 * a slow machine.
 */
#define EDU_MAX_COPY_COUNT		32

/* A DMA only takes this long if the device is broken or QEMU does not run. */
#define EDU_DMA_TIMEOUT_MS		5000

struct edu_state {
	/* The copy that edu_memcpy_start() started */
	iova_t src;
	iova_t dst;
	u64 size;
	u64 count;

	/* What edu_check_dma_mask() copies */
	u64 probe_src;
	u64 probe_dst;
};

static inline struct edu_state *to_edu_state(struct vfio_pci_device *device)
{
	return device->driver.region.vaddr;
}

static inline void *edu_registers(struct vfio_pci_device *device)
{
	return device->bars[0].vaddr;
}

static int edu_probe(struct vfio_pci_device *device)
{
	u32 id;

	if (!vfio_pci_device_match(device, EDU_PCI_VENDOR_ID, EDU_PCI_DEVICE_ID))
		return -EINVAL;

	VFIO_ASSERT_NOT_NULL(edu_registers(device));

	id = readl(edu_registers(device) + EDU_ID);
	if ((id & EDU_ID_MASK) != EDU_ID_V1) {
		dev_err(device, "edu: Unsupported version: 0x%x\n", id);
		return -EINVAL;
	}

	return 0;
}

static bool edu_dma_busy(struct vfio_pci_device *device)
{
	return readq(edu_registers(device) + EDU_DMA_CMD) & EDU_DMA_CMD_RUN;
}

static int edu_dma_wait(struct vfio_pci_device *device)
{
	u32 sleep_ms = 1, attempts = EDU_DMA_TIMEOUT_MS / sleep_ms;

	while (edu_dma_busy(device)) {
		if (!attempts--) {
			dev_err(device, "edu: DMA did not finish in %ums\n",
				EDU_DMA_TIMEOUT_MS);
			return -ETIMEDOUT;
		}
		usleep(sleep_ms * 1000);
	}

	return 0;
}

/*
 * EDU ignores what is written to a DMA engine that runs. Also do not let a DMA
 * that nobody waits for any longer get back to memory.
 */
static void edu_enable(struct vfio_pci_device *device)
{
	VFIO_ASSERT_FALSE(edu_dma_busy(device), "edu: DMA still running\n");
	vfio_pci_cmd_set(device, PCI_COMMAND_MASTER);
}

static void edu_dma_start(struct vfio_pci_device *device, u64 src, u64 dst,
			  u64 size, u64 cmd)
{
	void *registers = edu_registers(device);

	writeq(src, registers + EDU_DMA_SRC);
	writeq(dst, registers + EDU_DMA_DST);
	writeq(size, registers + EDU_DMA_COUNT);
	writeq(cmd | EDU_DMA_CMD_RUN, registers + EDU_DMA_CMD);
}

static void edu_dma_from_ram(struct vfio_pci_device *device, iova_t src, u64 size)
{
	edu_dma_start(device, src, EDU_BUFFER, size, 0);
}

static void edu_dma_to_ram(struct vfio_pci_device *device, iova_t dst, u64 size)
{
	edu_dma_start(device, EDU_BUFFER, dst, size, EDU_DMA_CMD_TO_RAM);
}

/*
 * A reset of the device does not reset EDU, and it cannot stop a DMA either. So
 * keep a DMA that somebody left behind away from memory until it is over, and
 * do not let it or a factorial interrupt later.
 */
static int edu_quiesce(struct vfio_pci_device *device)
{
	void *registers = edu_registers(device);
	int ret;

	vfio_pci_cmd_clear(device, PCI_COMMAND_MASTER);
	ret = edu_dma_wait(device);

	writel(0, registers + EDU_STATUS);
	writel(readl(registers + EDU_IRQ_STATUS), registers + EDU_IRQ_ACK);

	return ret;
}

static void edu_memcpy_start(struct vfio_pci_device *device,
			     iova_t src, iova_t dst, u64 size, u64 count)
{
	struct edu_state *edu = to_edu_state(device);

	/* QEMU aborts on an empty DMA. */
	VFIO_ASSERT_GT(size, 0);
	VFIO_ASSERT_GT(count, 0);

	edu->src = src;
	edu->dst = dst;
	edu->size = size;
	edu->count = count;

	edu_enable(device);
	edu_dma_from_ram(device, src, size);
}

/*
 * EDU does one DMA at a time and has no queue. memcpy_start() only gets the
 * first one going, the others have to wait until somebody waits for them.
 *
 * EDU does not tell whether a DMA could reach the memory. The only error there
 * is to detect is a DMA that does not finish.
 */
static int edu_memcpy_wait(struct vfio_pci_device *device)
{
	struct edu_state *edu = to_edu_state(device);
	int ret;

	for (;;) {
		ret = edu_dma_wait(device);
		if (ret)
			break;

		edu_dma_to_ram(device, edu->dst, edu->size);
		ret = edu_dma_wait(device);
		if (ret || !--edu->count)
			break;

		edu_dma_from_ram(device, edu->src, edu->size);
	}

	/* Whatever the DMA does from now on, it does not do it to memory. */
	if (ret)
		vfio_pci_cmd_clear(device, PCI_COMMAND_MASTER);

	return ret;
}

/*
 * EDU masks the addresses of its DMAs with a mask that cannot be read, and by
 * default the mask has 28 bits. Above that it would silently copy from and to
 * the wrong place. The mask only shows in what a DMA does, so try one. This
 * finds nothing if the region is below 256M itself.
 */
static void edu_check_dma_mask(struct vfio_pci_device *device)
{
	struct edu_state *edu = to_edu_state(device);
	const u64 magic = 0x6564752d70726f62;

	edu->probe_src = magic;
	edu->probe_dst = ~magic;

	edu_memcpy_start(device, to_iova(device, &edu->probe_src),
			 to_iova(device, &edu->probe_dst), sizeof(magic), 1);
	VFIO_ASSERT_EQ(edu_memcpy_wait(device), 0);

	VFIO_ASSERT_EQ(READ_ONCE(edu->probe_dst), magic,
		       "edu: DMA to IOVA 0x%lx went astray, start QEMU with dma_mask=0xffffffffffffffff\n",
		       to_iova(device, &edu->probe_dst));
}

static void edu_init(struct vfio_pci_device *device)
{
	struct vfio_pci_driver *driver = &device->driver;

	VFIO_ASSERT_GE(driver->region.size, sizeof(struct edu_state));

	vfio_pci_cmd_set(device, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);

	VFIO_ASSERT_EQ(edu_quiesce(device), 0);
	vfio_pci_msi_enable(device, 0, 1);

	driver->msi = 0;
	driver->max_memcpy_size = EDU_MAX_COPY;
	driver->max_memcpy_count = EDU_MAX_COPY_COUNT;

	edu_check_dma_mask(device);
}

static void edu_remove(struct vfio_pci_device *device)
{
	edu_quiesce(device);
	vfio_pci_msi_disable(device);
}

static void edu_send_msi(struct vfio_pci_device *device)
{
	void *registers = edu_registers(device);

	/* An MSI is a write to memory too. */
	edu_enable(device);

	/* Each raise is one MSI, pending or not. The ack is for the status. */
	writel(1, registers + EDU_IRQ_RAISE);
	writel(1, registers + EDU_IRQ_ACK);
}

static int edu_find_scratch(struct vfio_pci_device *device, int bar,
			    struct vfio_pci_scratch *scratch)
{
	if (bar)
		return -ENOENT;

	*scratch = (struct vfio_pci_scratch) {
		.offset = EDU_LIVENESS,
		.mask = ~0U,
		.invert = ~0U,
	};
	return 0;
}

const struct vfio_pci_driver_ops edu_ops = {
	.name = "edu",
	.probe = edu_probe,
	.init = edu_init,
	.remove = edu_remove,
	.memcpy_start = edu_memcpy_start,
	.memcpy_wait = edu_memcpy_wait,
	.send_msi = edu_send_msi,
	.find_scratch = edu_find_scratch,
};
