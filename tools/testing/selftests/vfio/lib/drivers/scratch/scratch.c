// SPDX-License-Identifier: GPL-2.0-only
/*
 * Driver for devices of which nothing is known but a place in a BAR to write to,
 * which is all that tests of mappings need.
 */
#include <errno.h>

#include <linux/kernel.h>

#include <libvfio.h>

static const struct {
	u16 vendor;
	u16 device;
	int bar;
	struct vfio_pci_scratch scratch;
} scratches[] = {
	/* QEMU's ivshmem-plain: the shared memory */
	{ 0x1af4, 0x1110, 2, { .mask = ~0U, .ram = true } },
	/* QEMU's bochs-display: video memory, and the width of the screen */
	{ 0x1234, 0x1111, 0, { .mask = ~0U, .ram = true } },
	{ 0x1234, 0x1111, 2, { .offset = 0x500, .mask = 0xffff0000 } },
	/* QEMU's nvme: the address of the admin submission queue, of no effect */
	{ 0x1b36, 0x0010, 0, { .offset = 0x28, .mask = 0xfffff000 } },
	/* 82574L, which is QEMU's e1000e: what the LEDs show */
	{ 0x8086, 0x10d3, 0, { .offset = 0xe00, .mask = 0x000f0f0f } },
};

static int scratch_probe(struct vfio_pci_device *device)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(scratches); i++) {
		if (vfio_pci_device_match(device, scratches[i].vendor, scratches[i].device))
			return 0;
	}
	return -EINVAL;
}

static int scratch_find_scratch(struct vfio_pci_device *device, int bar,
				struct vfio_pci_scratch *scratch)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(scratches); i++) {
		if (scratches[i].bar != bar ||
		    !vfio_pci_device_match(device, scratches[i].vendor, scratches[i].device))
			continue;
		*scratch = scratches[i].scratch;
		return 0;
	}
	return -ENOENT;
}

const struct vfio_pci_driver_ops scratch_ops = {
	.name = "scratch",
	.probe = scratch_probe,
	.find_scratch = scratch_find_scratch,
};
